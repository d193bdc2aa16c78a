"""Kills runs with SIGKILL at every named point at which they touch the disk, resumes them, and compares.

    python benchmarks/kill_points.py [--turns 2]

A first run lists its points (see `disk`): what is done to which kind of file. At every name, its first turn and a later
one, a run is killed just before the operation, just after it and, where it writes, with half of it written; then it is
resumed. So is the resumption of a run that was killed between its log and its state. Equal means: state, metrics,
records and report are those of a run that was never stopped. Every computation of a client is counted over both
processes: those that were begun twice for one round are repeated.

Two kinds of run: all clients in the server's process, and clients that are sites with files of their own (DER++, which
keeps a memory); there server and site die together.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disk import Point, Tap, When
from small_runs import Ended, Small, child, outcome, warm, whole

LOCAL, SITES = Small(), Small("derpp", sites=True)


@dataclass(frozen=True)
class Kill:
    """Where a run is killed; `begun` is a folder that it goes on from."""

    name: str
    turn: int
    when: When
    begun: Path | None = None

    def happens(self, point: Point) -> bool:
        return (point.name, point.turn, point.when) == (self.name, self.turn, self.when)


@dataclass(frozen=True)
class Trial:
    """What became of a run that was killed and resumed."""

    killed: bool
    equal: bool
    begun: int
    repeated: int
    ended: Ended


def counting(counts: Path) -> None:
    """Writes down every computation that a client begins, for the rest of the process."""
    from fedbraid.runtimes import client

    inner = client.owed

    def owed(work: Any, name: str, party: Any, received: Any, memory: Any, round: Any) -> Any:
        if len(work.method.phase(round).data(party, round.task)):
            descriptor = os.open(counts, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(descriptor, f"{round} {name}\n".encode())
            os.close(descriptor)
        return inner(work, name, party, received, memory, round)

    client.owed = owed


def points(kind: Small, folder: Path) -> list[Point]:
    """All points of a run, or of the rest of one, in their order."""
    noted: list[str] = []

    def note(point: Point) -> None:
        noted.append(f"{point.name}\t{point.number}\t{point.turn}\t{point.when}\t{point.path}")

    def work() -> None:
        Tap(folder, note).install()
        try:
            kind.go_on(folder)
        finally:
            os.write(1, ("\n--points--\n" + "\n".join(noted)).encode())

    ended = child(work, folder.parent / "output")
    if ended.status:
        raise SystemExit(f"the run whose points are listed failed: {ended.text}")
    rows = [line.split("\t") for line in ended.text.partition("--points--\n")[2].splitlines()]
    return [Point(name, int(number), int(turn), when, path) for name, number, turn, when, path in rows]  # type: ignore[arg-type]


def chosen(found: Sequence[Point], turns: int) -> Iterator[tuple[str, int, When]]:
    """Every name and moment at its first turn, and at later ones spread over the rest."""
    moments: dict[tuple[str, When], list[int]] = defaultdict(list)
    for point in found:
        moments[point.name, point.when].append(point.turn)
    for (name, when), seen in moments.items():
        for place in sorted({round((len(seen) - 1) * i / max(turns - 1, 1)) for i in range(turns)}):
            yield name, seen[place], when


def tried(kind: Small, kill: Kill, root: Path, expected: dict[str, Any]) -> Trial:
    """A run that is killed there and resumed."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    folder, counts = root / "run", root / "counts"
    if kill.begun:
        shutil.copytree(kill.begun, folder)

    def act(point: Point) -> None:
        if kill.happens(point):
            os.kill(os.getpid(), signal.SIGKILL)

    def killed() -> None:
        counting(counts)
        Tap(folder, act).install()
        kind.go_on(folder)

    def resumed() -> None:
        counting(counts)
        kind.go_on(folder)

    first = child(killed, root / "output")
    second = child(resumed, root / "output")
    begun = Counter(counts.read_text().splitlines()) if counts.is_file() else Counter[str]()
    repeated = sum(times - 1 for times in begun.values())
    equal = second.status == 0 and outcome(folder) == expected
    return Trial(first.status == -signal.SIGKILL, equal, begun.total(), repeated, second)


def kills(kind: Small, root: Path, turns: int) -> Iterator[Kill]:
    """Those of a run, then those of resuming one that was killed between its log and its state."""
    found = points(kind, root / "listed" / "run")
    for name, turn, when in chosen(found, turns):
        yield Kill(name, turn, when)
    states = [p for p in found if p.name == "open state/N.json, draft" and p.when == "before"]
    begun = root / "begun" / "run"
    at = Kill(states[0].name, states[len(states) // 2].turn, "before")

    def work() -> None:
        Tap(begun, lambda point: os.kill(os.getpid(), 9) if at.happens(point) else None).install()
        kind.go_on(begun)

    child(work, root / "output")
    copy = root / "copied" / "run"
    shutil.copytree(begun, copy)
    for name, turn, when in chosen(points(kind, copy), 1):
        yield Kill(name, turn, when, begun)


def measured(title: str, kind: Small, turns: int, at: str) -> bool:
    """Prints a line for every name; whether all were equal and at most one computation was repeated each time."""
    begin = time.perf_counter()
    rows: dict[str, list[Trial]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for name in ("whole", "listed", "begun", "copied"):
            (root / name).mkdir()
        expected, seconds = whole(kind, root / "whole" / "run")
        print(f"{title}: an uninterrupted run takes {seconds:.1f} s", flush=True)
        wanted = [kill for kill in kills(kind, root, turns) if at in kill.name]
        for number, kill in enumerate(wanted, start=1):
            trial = tried(kind, kill, root / "trial", expected)
            rows[f"{'resume: ' if kill.begun else ''}{kill.name}"].append(trial)
            if not trial.equal or trial.repeated > 1 or not trial.killed:
                told = f"killed {trial.killed}, equal {trial.equal}, repeated {trial.repeated}"
                print(f"  {kill.when} {kill.name}, turn {kill.turn}: {told}: {trial.ended.said}", flush=True)
            if number % 50 == 0:
                print(f"  {number} of {len(wanted)} kills, {time.perf_counter() - begin:.0f} s", flush=True)
    print(f"  {'kills':>5} {'equal':>5} {'repeated, most':>14}  point")
    for name, trials in rows.items():
        equal = sum(trial.equal for trial in trials)
        print(f"  {len(trials):>5} {equal:>5} {max(trial.repeated for trial in trials):>14}  {name}")
    trials = [trial for found in rows.values() for trial in found]
    equal, most = sum(trial.equal for trial in trials), max(trial.repeated for trial in trials)
    repeated, begun = sum(trial.repeated for trial in trials), sum(trial.begun for trial in trials)
    print(
        f"{title}: {len(rows)} points, {len(trials)} kills, {equal} equal; {repeated} of {begun} computations "
        f"repeated, at most {most} a kill; {time.perf_counter() - begin:.0f} s",
        flush=True,
    )
    return equal == len(trials) and most <= 1 and begun > 0 and all(trial.killed for trial in trials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=2, help="kills at a point and moment, spread over the run")
    parser.add_argument("--at", default="", help="at points alone whose name holds this")
    parser.add_argument("--only", choices=["local", "sites"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        warm(Path(scratch))
    wanted = {"local": LOCAL, "sites": SITES}
    titles = [options.only] if options.only else list(wanted)
    good = [measured(title, wanted[title], options.turns, options.at) for title in titles]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
