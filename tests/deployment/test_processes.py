"""A federation of separate processes on this machine, with TLS and node keys, one of them killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="the extra 'flower' is not installed")
pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")

from every_kind import HELD, KINDS, write
from every_kind import SMALL as SHORT
from small_federations import HOLDS, SMALL
from typer.testing import CliRunner

from fedbraid import config, runs
from fedbraid.cli import app
from fedbraid.deployment.commands import wait
from fedbraid.deployment.supervising import running
from fedbraid.testing import random_bert

pytestmark = pytest.mark.slow


@contextmanager
def federation(folder: Path, data: Path, sites: Iterable[str], settings: Iterable[str]) -> Iterator[Path]:
    """A federation over the folders of its data, ended whatever happens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    named = [part for name in sites for part in ("--site", f"{name}={data / name}")]
    given = [part for one in (*settings, f"data.name={data / 'server'}", "rounds.retries=2") for part in ("--set", one)]
    deploy("init", str(folder), "--address", address, *named, *given)
    try:
        yield folder
    finally:
        deploy("down", str(folder))


def check_equal(fed: Path, data: Path, settings: Iterable[str]) -> None:
    """The run over processes ends with the bits of the run in one process on the union."""
    given = config.read("", [*settings, f"data.name={data / 'union'}", "partition.kind=natural"])
    for _ in runs.start(given, fed.parent / "whole").events():
        pass
    found, expected = (runs.read_results(folder) for folder in (fed / "run", fed.parent / "whole"))
    assert found["state_sha256"] == expected["state_sha256"]
    assert found["accuracy_matrix"] == expected["accuracy_matrix"]


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
    data: Path, tmp_path: Path
) -> None:
    with federation(tmp_path / "fed", data, HOLDS, SMALL) as fed:
        check_killed(fed, data)


def check_killed(fed: Path, data: Path) -> None:
    deploy("up", str(fed))
    until(lambda: (fed / "run" / "activity.jsonl").is_file())
    note = fed / "sites" / "north" / "processes" / "site.json"
    os.kill(running(note)["worker"], signal.SIGKILL)
    status = json.loads(deploy("status", str(fed), "--json"))
    assert status["tls"]
    assert status["server"]["up"]
    assert all(site["registered"] for site in status["sites"])
    wait(fed, patience=600)
    check_equal(fed, data, SMALL)
    secrets = [path for path in fed.rglob("*") if path.is_file() and path.suffix == ".key"]
    text = b"".join(path.read_bytes() for path in fed.rglob("*.log"))
    assert len(secrets) >= 4
    assert not any(secret.read_bytes().splitlines()[1] in text for secret in secrets)


def test_a_federation_of_texts_does_too(tmp_path: Path) -> None:
    """A server with test samples alone, and a site with one sample."""
    held = HELD["a client with one sample"]
    write(tmp_path, "text", held)
    settings = [*SHORT, *KINDS["text"], "run.threads=1", f"backbone.name={random_bert(tmp_path / 'model')}"]
    with federation(tmp_path / "fed", tmp_path, held.train, settings) as fed:
        deploy("up", str(fed), "--wait")
        check_equal(fed, tmp_path, settings)
