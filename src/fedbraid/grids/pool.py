"""Cells as processes, several at once: begun, watched, and stopped together.

A cell is `fedbraid run` where its folder is new and `fedbraid resume` where it is not, so the table adds nothing to
what a run is. Its standard output is a pipe that is read and forgotten: should the table be killed, the run finds the
pipe broken after its round and stops.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from fedbraid import config as configs
from fedbraid.checkpoint import write_durably
from fedbraid.errors import UserError
from fedbraid.grids.cells import Cell

TICK = 0.2
"""Seconds between two looks at the running cells."""
GRACE = 20.0
"""Seconds that a run has to stop when it is asked to; a run folder can be left at any moment."""


@dataclass(frozen=True)
class Ended:
    """A cell that is over: how long it took, and why it failed if it did. `earlier` is one that had not to run."""

    cell: Cell
    seconds: float
    error: str | None = None
    earlier: bool = False


@dataclass(frozen=True)
class Running:
    """A cell at work. `rounds` of `total` are finished, `before` of them by an earlier process."""

    cell: Cell
    seconds: float
    rounds: int = 0
    before: int = 0
    total: int | None = None
    latest: str = ""


@dataclass(frozen=True)
class Report:
    """One look at the pool: what has ended since the last one, and what is at work."""

    ended: Sequence[Ended]
    running: Sequence[Running]


@dataclass(frozen=True)
class _Job:
    cell: Cell
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    begun: float
    before: int


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """The folder held by this process and those it starts; `UserError` where another table is at work in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"a table is at work in {folder}, or runs of one that was killed are about to stop; "
                "wait for them, or choose another --out"
            ) from error
        yield lock.fileno()


def work(cells: Sequence[Cell], *, jobs: int = 1, lock: int | None = None) -> Iterator[Report]:
    """Runs the cells, `jobs` at once. When the iterator is closed or interrupted, running cells are stopped."""
    waiting, running = deque(cells), list[_Job]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_begin(waiting.popleft(), lock))
            time.sleep(TICK)
            over = [job for job in running if _over(job)]
            running = [job for job in running if job not in over]
            yield Report([_ended(job) for job in over], [_look(job) for job in running])
    finally:
        _stop(running)


def reason(cell: Cell) -> str:
    """Why a cell failed, in one line: the message of the command line, or else the last line that it wrote."""
    lines = [line.strip() for line in cell.error.read_text("utf-8", "replace").splitlines() if line.strip()]
    told = [line.removeprefix("fedbraid: ") for line in lines if line.startswith("fedbraid: ")]
    return (told or lines or ["it wrote nothing"])[-1]


def _begin(cell: Cell, lock: int | None) -> _Job:
    command = ["resume", str(cell.folder)] if cell.begun else ["run", str(cell.request), "--out", str(cell.folder)]
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    cell.error.unlink(missing_ok=True)
    write_durably(cell.request, configs.to_toml(cell.config).encode())
    with _messages(cell).open("wb") as messages:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedbraid", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=messages,
            pass_fds=() if lock is None else (lock,),
            # Its own session, so that Ctrl-C reaches it once: from here.
            start_new_session=True,
        )
    output = cast(IO[bytes], process.stdout)
    os.set_blocking(output.fileno(), False)
    return _Job(cell, process, output, time.monotonic(), len(_events(cell)))


def _over(job: _Job) -> bool:
    while job.output.read(1 << 16):
        pass
    return job.process.poll() is not None


def _ended(job: _Job) -> Ended:
    code, seconds, messages = job.process.returncode, time.monotonic() - job.begun, _messages(job.cell)
    job.output.close()
    if code == 0:
        messages.unlink()
        return Ended(job.cell, seconds)
    if code < 0:
        with messages.open("a") as file:
            file.write(f"\nfedbraid: ended by signal {-code} ({signal.strsignal(-code)})\n")
    os.replace(messages, job.cell.error)
    return Ended(job.cell, seconds, reason(job.cell))


def _look(job: _Job) -> Running:
    """How far a running cell is, from what its folder says."""
    seconds, events = time.monotonic() - job.begun, _events(job.cell)
    summary = job.cell.folder / "summary.json"
    if not summary.is_file():
        return Running(job.cell, seconds)
    latest = ""
    if events:
        last = json.loads(events[-1])
        latest = f"task {last['task'] + 1}, {last['phase']} {last['round'] + 1}"
    total = json.loads(summary.read_bytes())["rounds"]
    return Running(job.cell, seconds, len(events), job.before, total, latest)


def _events(cell: Cell) -> list[bytes]:
    path = cell.folder / "events.jsonl"
    return path.read_bytes().split(b"\n")[:-1] if path.is_file() else []


def _messages(cell: Cell) -> Path:
    """Where a running cell writes what it has to say; it becomes the error file only if the cell fails."""
    return cell.folder.with_name(f".{cell.folder.name}.stderr")


def _stop(jobs: Sequence[_Job]) -> None:
    """Asks all to stop, waits, and ends those that do not; what they leave is no failure."""
    for job in jobs:
        job.process.terminate()  # unlike SIGINT it is heard also where a shell put the table into the background
    deadline = time.monotonic() + GRACE
    for job in jobs:
        try:
            job.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            job.process.kill()
            job.process.wait()
        job.output.close()
        _messages(job.cell).unlink(missing_ok=True)
