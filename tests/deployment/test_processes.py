"""A federation of separate processes on this machine, with TLS and node keys, one of them killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="the extra 'flower' is not installed")
pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")

from small_federations import HOLDS, SMALL
from typer.testing import CliRunner

from fedbraid import config, runs
from fedbraid.cli import app
from fedbraid.deployment.commands import wait
from fedbraid.deployment.supervising import running

pytestmark = pytest.mark.slow


@pytest.fixture
def fed(data: Path, tmp_path: Path) -> Iterator[Path]:
    """A federation that is ended whatever happens."""
    folder = tmp_path / "fed"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    sites = [part for name in HOLDS for part in ("--site", f"{name}={data / name}")]
    settings = [*SMALL, f"data.name={data / 'server'}", "rounds.retries=2"]
    deploy("init", str(folder), "--address", address, *sites, *(part for one in settings for part in ("--set", one)))
    try:
        yield folder
    finally:
        deploy("down", str(folder))


def deploy(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["deploy", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def until(ready: Callable[[], Any], seconds: float = 300.0) -> None:
    over = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < over, "nothing happened"
        time.sleep(0.2)


def test_a_federation_of_processes_computes_what_one_process_does_also_where_one_is_killed(
    fed: Path, data: Path, tmp_path: Path
) -> None:
    deploy("up", str(fed))
    until(lambda: (fed / "run" / "activity.jsonl").is_file())
    note = fed / "sites" / "north" / "processes" / "site.json"
    os.kill(running(note)["worker"], signal.SIGKILL)
    status = json.loads(deploy("status", str(fed), "--json"))
    assert status["tls"]
    assert status["server"]["up"]
    assert all(site["registered"] for site in status["sites"])
    wait(fed, patience=600)
    settings = [*SMALL, f"data.name={data / 'union'}", "partition.kind=natural"]
    for _ in runs.start(config.read("", settings), tmp_path / "whole").events():
        pass
    found, expected = (runs.read_results(folder) for folder in (fed / "run", tmp_path / "whole"))
    assert found["state_sha256"] == expected["state_sha256"]
    assert found["accuracy_matrix"] == expected["accuracy_matrix"]
    secrets = [path for path in fed.rglob("*") if path.is_file() and path.suffix == ".key"]
    text = b"".join(path.read_bytes() for path in fed.rglob("*.log"))
    assert len(secrets) >= 4
    assert not any(secret.read_bytes().splitlines()[1] in text for secret in secrets)
