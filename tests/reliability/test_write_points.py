"""Every point at which a state is written: killed or refused there, and the state before it or after it is whole.

Benchmarks do so with whole runs; here it is the writing alone, in forked processes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from disk import REFUSALS, Point, Tap, refusal

from fedbraid import checkpoint
from fedbraid.checkpoint import Checkpoint
from fedbraid.core import State
from fedbraid.errors import StoppedRun
from fedbraid.log import Log

TOLD = 7
"""The status of a process that ended with an error that names file and bytes."""


def write(folder: Path, done: int) -> None:
    """One more round: a record, then the state with its length."""
    log = Log(folder / "events.jsonl", 10 * (done - 1))
    log.append(b"a record.\n")
    state = State({"x": torch.full((5,), float(done))})
    checkpoint.write(folder / "state", Checkpoint(done, state, {}, log.length, log.sha256))


def forked(folder: Path, act: Callable[[Point], None]) -> int:
    """How a process ended that writes the third round, with a tap."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            Tap(folder, act).install()
            write(folder, 3)
            status = 0
        except StoppedRun as error:
            status = TOLD if "bytes" in str(error) and str(folder) in str(error) else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def begun(tmp_path: Path) -> Callable[[], Path]:
    """Folders after two rounds."""
    made: list[Path] = []

    def begin() -> Path:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(folder)
        for done in (1, 2):
            write(folder, done)
        return folder

    return begin


@pytest.fixture
def points(begun: Callable[[], Path], tmp_path: Path) -> list[tuple[str, int, str]]:
    """All points of the third round."""
    noted = tmp_path / "noted"

    def note(point: Point) -> None:
        descriptor = os.open(noted, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{point.name}\t{point.number}\t{point.when}\n".encode())

    assert forked(begun(), note) == 0
    rows = [line.split("\t") for line in noted.read_text().splitlines()]
    return [(name, int(number), when) for name, number, when in rows]


def test_the_points_are_named(points: list[tuple[str, int, str]]) -> None:
    names = list(dict.fromkeys(name for name, _, _ in points))
    assert names == [
        "open events.jsonl",
        "write events.jsonl",
        "fsync events.jsonl",
        "open state/N.safetensors, draft",
        "write state/N.safetensors, draft",
        "fsync state/N.safetensors, draft",
        "replace state/N.safetensors",
        "fsync state",
        "open state/N.json, draft",
        "write state/N.json, draft",
        "fsync state/N.json, draft",
        "replace state/N.json",
        "unlink state/N.json",
        "unlink state/N.safetensors",
    ]


def whole(folder: Path) -> int:
    """How many rounds the newest whole state has, its log with it; its successor can be written."""
    last = checkpoint.read(folder / "state", folder / "events.jsonl")
    assert last is not None
    assert torch.equal(last.state.shared["x"], torch.full((5,), float(last.done)))
    write(folder, last.done + 1)
    after = checkpoint.read(folder / "state", folder / "events.jsonl")
    assert after is not None
    assert after.done == last.done + 1
    assert not list(folder.rglob("*.part"))
    return last.done


def test_a_process_killed_at_any_point_leaves_a_whole_state(
    begun: Callable[[], Path], points: list[tuple[str, int, str]]
) -> None:
    visible = next(number for name, number, when in points if (name, when) == ("replace state/N.json", "after"))
    for _, number, when in points:
        folder = begun()

        def act(point: Point, number: int = number, when: str = when) -> None:
            if (point.number, point.when) == (number, when):
                os.kill(os.getpid(), signal.SIGKILL)

        assert forked(folder, act) == -signal.SIGKILL
        there = number > visible or (number, when) == (visible, "after")
        assert whole(folder) == (3 if there else 2)


@pytest.mark.parametrize("reason", list(REFUSALS))
def test_a_disk_that_refuses_from_any_point_on_leaves_a_whole_state(
    reason: str, begun: Callable[[], Path], points: list[tuple[str, int, str]]
) -> None:
    removing = next(number for name, number, _ in points if name.startswith("unlink"))
    visible = next(number for name, number, _ in points if name == "replace state/N.json")
    for number in range(1 + max(number for _, number, _ in points)):
        folder = begun()

        def act(point: Point, number: int = number) -> None:
            if point.number >= number and point.when == "before" and (point.writes or reason == "EROFS"):
                raise refusal(REFUSALS[reason], point.path)

        assert forked(folder, act) == (TOLD if reason == "EROFS" or number < removing else 0)
        assert whole(folder) == (3 if number > visible else 2)
