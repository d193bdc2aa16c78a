"""The process that starts the server's app, run as `python -m fedbraid.deployment.starting` with Flower's own options.

Flower writes the token by which the app proves itself on its command line, which every account of the machine can
read. Here the app gets it as an open file that has no name.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from fedbraid.deployment.inside_flower import start_programs_by
from fedbraid.deployment.program import run

TOKEN = "--token"


def without_token(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Starts a program of Flower's, its token not in its command line."""
    at = list(command).index(TOKEN)
    with tempfile.TemporaryFile() as handed:
        handed.write(command[at + 1].encode())
        handed.seek(0)
        number = handed.fileno()
        quiet = [*command[:at], "--token-file", f"/dev/fd/{number}", *command[at + 2 :]]
        return subprocess.Popen[bytes](quiet, pass_fds=[number], **options)


def started_here(command: Sequence[str]) -> list[str]:
    """How this process is started, of how Flower's server would start its own."""
    return [sys.executable, "-m", __name__, *command[1:]]


def main() -> None:
    """Flower's own program, with another way to start programs."""
    start_programs_by(without_token)
    run("flower-superexec")


if __name__ == "__main__":
    main()
