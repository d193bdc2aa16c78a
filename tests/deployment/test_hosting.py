"""Processes that are kept alive, and a server's port that answers nodes alone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedbraid.deployment.link import NodesAlone
from fedbraid.deployment.supervising import end, running


def until(ready: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Path]:
    """The note of a supervisor whose child sleeps beside a child of its own."""
    program = f"""
        import os, sys
        from pathlib import Path
        from fedbraid.deployment import supervising
        supervising.FIRST = 0.1
        sleeper = [sys.executable, "-c", "import subprocess, time; subprocess.Popen(['sleep', '99']); time.sleep(99)"]
        child = supervising.Child("sleeper", lambda: sleeper, os.environ, Path({str(tmp_path)!r}) / "log", pause=0.1)
        supervising.supervise("test", [child], Path({str(tmp_path)!r}))
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    note = tmp_path / "test.json"
    try:
        until(lambda: "sleeper" in running(note))
        yield note
    finally:
        end(note)
        process.kill()
        process.wait()


def members(group: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group and "Z" not in (folder / "stat").read_text().split(")")[-1][:3]:
                found.append(int(folder.name))
        except OSError:
            continue
    return found


pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks at processes through /proc")


def test_a_child_that_is_killed_is_started_again(supervised: Path) -> None:
    first = running(supervised)["sleeper"]
    os.kill(first, signal.SIGKILL)
    until(lambda: running(supervised).get("sleeper", first) != first)
    until(lambda: not members(first))


def test_ending_a_supervisor_ends_all_that_its_children_started(supervised: Path) -> None:
    group = running(supervised)["sleeper"]
    until(lambda: len(members(group)) == 2)
    assert end(supervised)
    assert not members(group)
    assert not supervised.exists()
    assert not end(supervised)


def test_what_a_killed_supervisor_left_behind_is_ended(supervised: Path) -> None:
    group = running(supervised)["sleeper"]
    os.kill(running(supervised)["supervisor"], signal.SIGKILL)
    until(lambda: "supervisor" not in running(supervised))
    assert members(group)
    assert end(supervised)
    assert not members(group)


@pytest.mark.parametrize(
    ("path", "client", "status"),
    [
        ("/v1/fleet/pull-messages", ("192.0.2.7", 5000), 200),
        ("/health", ("192.0.2.7", 5000), 200),
        ("/v1/control/start-run", ("127.0.0.1", 5000), 200),
        ("/v1/control/start-run", ("::ffff:127.0.0.1", 5000), 200),
        ("/v1/control/start-run", ("192.0.2.7", 5000), 403),
        ("/v1/control/start-run", ("::ffff:192.0.2.7", 5000), 403),
        ("/v1/runtime/acquire-task", ("192.0.2.7", 5000), 403),
        ("/v1/fleet/../control/start-run", ("192.0.2.7", 5000), 403),
        ("/docs", ("192.0.2.7", 5000), 403),
        ("/v1/control/start-run", None, 403),
    ],
)
def test_from_elsewhere_the_port_answers_nodes_alone(path: str, client: tuple[str, int] | None, status: int) -> None:
    told: list[int] = []

    async def app(_scope: object, _receive: object, send: Callable) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: dict) -> None:
        if "status" in message:
            told.append(message["status"])

    async def receive() -> dict:
        return {}

    asyncio.run(NodesAlone(app)({"type": "http", "path": path, "client": client}, receive, send))
    assert told == [status]
