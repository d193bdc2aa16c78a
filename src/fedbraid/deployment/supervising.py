"""Processes that are kept alive: each is started again when it dies, later and later while it dies early.

A supervisor runs in the foreground, for systemd, a container or `deploy up`. Its children are groups of their own,
which end with it; those of a supervisor that was killed are found by the numbers that it left, and ended first.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedbraid.deployment.notes import read_note, write_note
from fedbraid.errors import UserError

FIRST, LONGEST, WELL = 1.0, 15.0, 60.0
"""Seconds before the first restart, the most before any, and after which a process counts as well again."""
TICK, PATIENCE = 0.5, 10.0
LOG_CAP = 20 * 2**20
"""A log that has grown beyond this many bytes is put aside when its process is started."""


@dataclass
class Child:
    """A program that is to run: its name, how it is called, and where its words go."""

    name: str
    command: Callable[[], Sequence[str]]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    due: float = 0.0
    pause: float = FIRST
    starts: int = field(default=0)

    def keep(self, now: float) -> bool:
        """Starts it where it is due; whether it was started."""
        if self.process is not None and self.process.poll() is None:
            return False
        if self.process is not None:
            self._died(now)
        if now < self.due:
            return False
        self.process = self._start()
        self.began, self.starts = now, self.starts + 1
        return True

    def _died(self, now: float) -> None:
        """Takes note of an end that nobody asked for."""
        end_group(self.process.pid if self.process else 0, patience=0.0)  # what it started and left behind
        self.pause = FIRST if now - self.began > WELL else min(2 * self.pause, LONGEST)
        self.due = now + self.pause
        self.process = None

    def _start(self) -> subprocess.Popen[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.is_file() and self.log.stat().st_size > LOG_CAP:
            self.log.replace(self.log.with_suffix(".old"))
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command(),
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def supervise(
    name: str, children: Sequence[Child], folder: Path, *, each: Callable[[float], None] | None = None
) -> None:
    """Keeps the children alive until this process is asked to end; `each` is called now and then.

    What runs is in `folder`, which another supervisor of that name refuses to share.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / f"{name}.json", name), _asked_to_end() as over:
        end_left_behind(folder / f"{name}.json")
        try:
            while not over.is_set():
                now = time.monotonic()
                started = [child for child in children if child.keep(now)]
                if started:
                    pids = {child.name: child.process.pid for child in children if child.process}
                    note_running(folder / f"{name}.json", {"supervisor": os.getpid(), **pids})
                if each:
                    each(now)
                over.wait(TICK)
        finally:
            for child in children:
                if child.process:
                    child.process.terminate()
            for child in children:
                if child.process:
                    end_group(child.process.pid, patience=PATIENCE, leader=child.process)
            (folder / f"{name}.json").unlink(missing_ok=True)


def running(path: Path) -> Mapping[str, int]:
    """The processes that a supervisor says it keeps, by name, itself as `supervisor`; none where it has ended."""
    found = read_note(path)
    return {name: one["pid"] for name, one in found.items() if one["began"] and _began(one["pid"]) == one["began"]}


def end(path: Path, patience: float = 2 * PATIENCE) -> bool:
    """Asks a supervisor to end, and waits; whether there was one."""
    found = running(path)
    supervisor = found.get("supervisor")
    if supervisor:
        with suppress(ProcessLookupError):
            os.kill(supervisor, signal.SIGTERM)
        until = time.monotonic() + patience
        while "supervisor" in running(path) and time.monotonic() < until:
            time.sleep(0.1)
    end_left_behind(path)
    return bool(found)


def end_left_behind(path: Path) -> None:
    """Ends the children of a supervisor that was killed."""
    for name, pid in running(path).items():
        if name != "supervisor" or pid != os.getpid():
            end_group(pid, patience=PATIENCE)


def end_group(pid: int, *, patience: float, leader: subprocess.Popen[bytes] | None = None) -> None:
    """Ends a process and all that it started, in its group or not: asked first, then not asked."""
    until = time.monotonic() + patience
    family = {one: _began(one) for one in _started_by(pid)}
    with suppress(ProcessLookupError, PermissionError):
        if patience:
            os.killpg(pid, signal.SIGTERM)
        while time.monotonic() < until:
            if leader:
                leader.poll()  # a child that is not waited for stays in its group
            os.killpg(pid, 0)
            time.sleep(0.1)
        os.killpg(pid, signal.SIGKILL)
    for one, began in family.items():
        if began and _began(one) == began:
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
    if leader:
        leader.wait()


def _started_by(pid: int) -> list[int]:
    """The children of a process and theirs, where the system tells of them: Flower's are groups of their own."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def note_running(path: Path, pids: Mapping[str, int]) -> None:
    """Writes down what runs; a number alone may be another process's by the time that it is read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_note(path, {name: {"pid": pid, "began": _began(pid)} for name, pid in pids.items()})


def _began(pid: int) -> str:
    """When a process began, in whatever unit the system tells it; empty where it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return _began_elsewhere(pid)
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def _began_elsewhere(pid: int) -> str:
    """The same where there is no /proc."""
    if Path("/proc/self").exists():
        return ""
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()


@contextmanager
def _alone(path: Path, name: str) -> Iterator[None]:
    if "supervisor" in running(path):
        raise UserError(f"{name} runs already (see 'fedbraid deploy status'); end it first")
    yield


@contextmanager
def _asked_to_end() -> Iterator[threading.Event]:
    """Set by SIGTERM and SIGINT."""
    over = threading.Event()
    asked = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: over.set()) for number in asked}
    try:
        yield over
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
