"""Runs whose disk is full, or may only be read, or whose quota is used up, from a moment on; then there is space.

    python benchmarks/disk_full.py [--trials 100] [--seed 0]

A first run lists the points at which it touches the disk (see `disk`). From one of them on, drawn anew each time, every
operation that needs space fails with ENOSPC or EDQUOT, or every operation at all with EROFS; a write can fail with half
of it written. A trial is good where

    the process ends by itself with a status that is not 0, without a traceback, and its message names the path and the
    bytes needed; or nothing that it needed was left to be written, and it ends as an uninterrupted run does
    the newest state that was complete is there and whole
    the resumed run equals the uninterrupted one

The same with a real small file system (tmpfs), where this process may mount one: runs in it until it is full, then it
is made larger.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disk import REFUSALS, Point, Tap, refusal
from kill_points import points
from small_runs import Ended, Small, child, outcome, warm, whole

from fedbraid import checkpoint
from fedbraid.errors import RunError

KINDS = (Small(), Small("derpp", sites=True))


@dataclass(frozen=True)
class Full:
    """From which touch on the disk refuses, and how."""

    kind: Small
    reason: str
    point: Point

    def refuses(self, point: Point) -> bool:
        if point.number < self.point.number or (point.when == "after"):
            return False
        begun = point.number > self.point.number or point.when == self.point.when
        return begun and (point.writes or self.reason == "EROFS")


def broken(full: Full, root: Path) -> tuple[Ended, int]:
    """How a run on such a disk ended, and how many rounds' states were complete before."""
    folder, complete = root / "run", root / "complete"

    def act(point: Point) -> None:
        if full.refuses(point):
            raise refusal(REFUSALS[full.reason], point.path)
        if point.name == "replace state/N.json" and point.when == "after":
            complete.write_text(str(int(Path(point.path).stem)))

    def work() -> None:
        Tap(folder, act).install()
        full.kind.go_on(folder)

    ended = child(work, root / "output")
    return ended, int(complete.read_text()) if complete.is_file() else 0


def faults(ended: Ended, folder: Path, complete: int, whole_run: dict[str, Any]) -> list[str]:
    """What is wrong with the way in which a run ended."""
    found: list[str] = []
    if ended.traceback or ended.status < 0:
        found.append(f"ended with status {ended.status}: {ended.text[-300:]}")
    elif ended.status == 0:
        found += [] if outcome(folder) == whole_run else ["ended well with something missing"]
    elif str(folder) not in ended.said or not (re.search(r"needs \d+ bytes", ended.said) or _folder_alone(ended)):
        found.append(f"its message does not tell: {ended.said}")
    try:
        last = checkpoint.read(folder / "state", folder / "events.jsonl")
    except RunError as error:
        found.append(str(error))
    else:
        found += [] if (last.done if last else 0) == complete else [f"state {complete} is gone"]
    return found


def _folder_alone(ended: Ended) -> bool:
    return "cannot make the run folder" in ended.said


def injected(trials: int, seed: int) -> Counter[str]:
    """What became of so many runs, whose refusals are drawn."""
    draw, found = random.Random(seed), Counter[str]()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        places = {kind: listed(kind, root / str(number)) for number, kind in enumerate(KINDS)}
        for trial in range(trials):
            kind = KINDS[trial % len(KINDS)]
            expected, all_points = places[kind]
            reason = list(REFUSALS)[trial % len(REFUSALS)]
            point = draw.choice([p for p in all_points if p.when != "after" and (p.writes or reason == "EROFS")])
            shutil.rmtree(root / "trial", ignore_errors=True)
            (root / "trial").mkdir()
            folder = root / "trial" / "run"
            ended, complete = broken(Full(kind, reason, point), root / "trial")
            wrong = faults(ended, folder, complete, expected)
            again = child(lambda kind=kind, folder=folder: kind.go_on(folder), root / "output")
            if outcome(folder) != expected:
                wrong.append(f"the resumed run differs: {again.said}")
            found[reason] += 1
            found[f"{reason} good"] += not wrong
            found["ended by itself"] += ended.status > 0
            if wrong:
                print(f"  {reason} from {point.when} {point.name}, turn {point.turn}: {'; '.join(wrong)}", flush=True)
    return found


def listed(kind: Small, root: Path) -> tuple[dict[str, Any], Sequence[Point]]:
    """What an uninterrupted run comes to, and its points."""
    for name in ("whole", "listed"):
        (root / name).mkdir(parents=True)
    return whole(kind, root / "whole" / "run")[0], points(kind, root / "listed" / "run")


def mounted(trials: int) -> Counter[str]:
    """Runs in a tmpfs of a few sizes; empty where none can be mounted."""
    found = Counter[str]()
    with tempfile.TemporaryDirectory() as scratch:
        place, root = Path(scratch, "small"), Path(scratch)
        place.mkdir()
        (root / "whole").mkdir()
        expected = whole(KINDS[0], root / "whole" / "run")[0]
        used = sum(path.stat().st_size for path in (root / "whole" / "run").rglob("*") if path.is_file())
        for trial in range(trials):
            size = 16384 + trial * used // trials
            told = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], capture_output=True, text=True
            )
            if told.returncode:
                print(f"tmpfs   | skipped: a file system cannot be mounted here ({told.stderr.strip()})")
                return found
            try:
                folder = place / "run"
                ended = child(lambda folder=folder: KINDS[0].go_on(folder), root / "output")
                states = [int(path.stem) for path in folder.glob("state/*.json")]
                wrong = faults(ended, folder, max(states, default=0), expected)
                subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
                again = child(lambda folder=folder: KINDS[0].go_on(folder), root / "output")
                if outcome(folder) != expected:
                    wrong.append(f"the resumed run differs: {again.said}")
            finally:
                subprocess.run(["umount", str(place)], check=True)
            found["tmpfs"] += 1
            found["tmpfs good"] += not wrong
            found["ended by itself"] += ended.status > 0
            if wrong:
                print(f"  tmpfs of {size} bytes: {'; '.join(wrong)}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--mounted", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        warm(Path(scratch))
    found, real = injected(options.trials, options.seed), mounted(options.mounted)
    for reason in REFUSALS:
        print(f"{reason:7} | {found[f'{reason} good']} of {found[reason]} good")
    print(f"tmpfs   | {real['tmpfs good']} of {real['tmpfs']} good, {real['ended by itself']} of them filled it")
    good = sum(found[f"{reason} good"] for reason in REFUSALS)
    print(
        f"{good} of {options.trials} good: {found['ended by itself']} ended with a message, the others had nothing "
        f"left to write that they need; {time.perf_counter() - begin:.0f} s"
    )
    sys.exit(good != options.trials or real["tmpfs good"] != real["tmpfs"])


if __name__ == "__main__":
    main()
