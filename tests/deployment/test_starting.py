"""The token of the server's app is handed over unseen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fedbraid.deployment.starting import started_here, without_token

PROGRAM = "import sys; print(sys.argv[1:]); print(open(sys.argv[sys.argv.index('--token-file') + 1]).read())"


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="hands over open files by their numbers")
def test_a_token_is_in_no_command_line_and_in_no_file() -> None:
    command = [sys.executable, "-c", PROGRAM, "--address", "here", "--token", "secret word", "--insecure"]
    process = without_token(command, stdout=subprocess.PIPE)
    shown, read = process.communicate()[0].decode().splitlines()
    assert "secret word" not in f"{process.args}{shown}"
    assert "--insecure" in shown
    assert read == "secret word"


def test_flowers_options_stay() -> None:
    assert started_here(["flower-superexec", "--insecure"])[1:] == ["-m", "fedbraid.deployment.starting", "--insecure"]
