"""Single bit flips and truncations in every file of a run folder that was left in mid-round.

    python benchmarks/bit_flips.py [--trials 1000] [--seed 0]

Two runs are killed in their last round: one whose clients are in the server's process, one whose clients are sites with
files of their own (DER++). Each trial copies one of the folders, damages one file (drawn with equal chance whatever its
size, one bit flipped or the end cut off) and continues. Good is

    harmless    the run ends, and state, metrics, records and report are those of an uninterrupted run
    named       it ends with a message that names the file, without a traceback; once the file is restored it ends equal

Anything else is a failure: a traceback, or other numbers. Bytes that were sent to sites are not compared: one that has
lost what it had received, or is ahead of a server that went back by one state, is sent everything again.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disk import Tap, kind_of
from kill_points import points
from small_runs import Ended, Small, child, outcome, warm, whole, without_resent


@dataclass(frozen=True)
class Left:
    """A run that was left in mid-round: its folder, and what it comes to uninterrupted."""

    kind: Small
    folder: Path
    expected: dict[str, Any]

    def is_equal(self, folder: Path) -> bool:
        """Whether a run that went on from this one came to the same."""
        if self.kind.sites:
            return without_resent(outcome(folder)) == without_resent(self.expected)
        return outcome(folder) == self.expected

    @property
    def files(self) -> Sequence[Path]:
        found = (path for path in self.folder.rglob("*") if path.is_file() and path.stat().st_size)
        return sorted(path.relative_to(self.folder) for path in found)


def left(kind: Small, root: Path, at: str) -> Left:
    """A run killed just before the last operation of this name."""
    for name in ("whole", "listed", "left"):
        (root / name).mkdir(parents=True)
    expected, _ = whole(kind, root / "whole" / "run")
    last = max(point.turn for point in points(kind, root / "listed" / "run") if point.name == at)
    folder = root / "left" / "run"

    def work() -> None:
        Tap(
            folder,
            lambda point: os.kill(os.getpid(), 9) if (point.name, point.turn) == (at, last) else None,
        ).install()
        kind.go_on(folder)

    child(work, root / "output")
    return Left(kind, folder, expected)


def damaged(path: Path, draw: random.Random) -> str:
    """Damages a file; what was done to it."""
    content = bytearray(path.read_bytes())
    if draw.random() < 0.3:
        length = draw.randrange(len(content))
        path.write_bytes(content[:length])
        return f"cut to {length} of {len(content)} bytes"
    at, bit = draw.randrange(len(content)), draw.randrange(8)
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return f"bit {bit} of byte {at}"


def tried(run: Left, file: Path, root: Path, draw: random.Random) -> tuple[str, str]:
    """(harmless, named or what is wrong, what was done and said)."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(run.folder, root / "run")
    what = damaged(root / "run" / file, draw)
    ended = child(lambda: run.kind.go_on(root / "run"), root / "output")
    if ended.status == 0:
        return ("harmless" if run.is_equal(root / "run") else "OTHER NUMBERS"), what
    if ended.traceback or ended.status < 0:
        return "TRACEBACK", f"{what}: {ended.text[-600:]}"
    if not _names(ended, file):
        return "NOT NAMED", f"{what}: {ended.said}"
    shutil.copy(run.folder / file, root / "run" / file)
    again = child(lambda: run.kind.go_on(root / "run"), root / "output")
    equal = run.is_equal(root / "run")
    return ("named" if equal else "NOT MENDED"), f"{what}: {ended.said if equal else again.said}"


def _names(ended: Ended, file: Path) -> bool:
    return file.name in ended.said.replace("\n", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["local", "sites"])
    parser.add_argument("--at", default="", help="in files alone whose path holds this")
    options = parser.parse_args()
    begin = time.perf_counter()
    draw, found = random.Random(options.seed), defaultdict[str, Counter[str]](Counter)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        warm(root / "warm")
        runs = {
            "local": lambda: left(Small(), root / "local", "replace journal/answer"),
            "sites": lambda: left(Small("derpp", sites=True), root / "sites", "replace clients/C/answer"),
        }
        made = [runs[name]() for name in ([options.only] if options.only else runs)]
        for number in range(options.trials):
            run = made[number % len(made)]
            file = draw.choice([path for path in run.files if options.at in str(path)])
            result, told = tried(run, file, root / "trial", draw)
            found[f"{'sites' if run.kind.sites else 'local'}: {kind_of(str(file))}"][result] += 1
            if result not in ("harmless", "named"):
                print(f"  {result}: {file}: {told}", flush=True)
            if (number + 1) % 100 == 0:
                print(f"  {number + 1} of {options.trials}, {time.perf_counter() - begin:.0f} s", flush=True)
    print(f"  {'trials':>6} {'harmless':>8} {'named':>5}  file")
    for title, results in sorted(found.items()):
        print(f"  {results.total():>6} {results['harmless']:>8} {results['named']:>5}  {title}")
    harmless, named = (sum(results[key] for results in found.values()) for key in ("harmless", "named"))
    print(
        f"{options.trials} flips and cuts: {harmless} harmless, {named} named and mended by restoring the file, "
        f"{options.trials - harmless - named} FAILED; {time.perf_counter() - begin:.0f} s"
    )
    sys.exit(harmless + named != options.trials)


if __name__ == "__main__":
    main()
