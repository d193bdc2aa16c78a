"""Kills runs with SIGKILL at random moments, resumes them, and compares with a run that was never stopped.

    python benchmarks/kill_resume.py --runs 100 [--out FILE]

Every run is killed the given number of times, each time at a random moment between the start of its process and the
time that a whole run takes; one that ends before its first kill is begun anew. Equal means: the same state, metrics and
records. With `--out` a line is added to the file after every run, and a later call goes on after the last.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from small_runs import Small, child, outcome, warm, whole

KINDS = (Small(), Small("derpp", sites=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=2, help="kills a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where results are added, and found by a later call")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if options.out and options.out.is_file():
        rows = [json.loads(line) for line in options.out.read_text().splitlines()]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        warm(root / "warm")
        (root / "whole").mkdir()
        expected = [whole(kind, root / "whole" / str(number)) for number, kind in enumerate(KINDS)]
        print(f"uninterrupted: {', '.join(f'{seconds:.1f} s' for _, seconds in expected)}", flush=True)
        for number in range(len(rows), options.runs):
            which = number % len(KINDS)
            row = _killed_and_resumed(
                KINDS[which], root, random.Random(options.seed + number), options.kills, expected[which]
            )
            rows.append(row)
            print(
                f"run {number}: killed after {row['moments']} s: {'equal' if row['equal'] else 'DIFFERENT'}", flush=True
            )
            if options.out:
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    equal, kills = sum(row["equal"] for row in rows), sum(len(row["moments"]) for row in rows)
    print(f"{equal} of {len(rows)} resumed runs equal the uninterrupted one, {kills} kills")
    sys.exit(equal != len(rows))


def _killed_and_resumed(
    kind: Small, root: Path, draw: random.Random, kills: int, expected: tuple[dict[str, Any], float]
) -> dict[str, Any]:
    """The moments of the kills, each in seconds after the start of its process, and whether the end is equal."""
    told, seconds = expected
    folder, output = root / "trial" / "run", root / "output"
    moments: list[float] = []
    while not moments:
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.parent.mkdir()
        for _ in range(kills):
            moment = draw.uniform(0.0, 1.0) * seconds
            begin = time.monotonic()
            if child(lambda: kind.go_on(folder), output, within=moment).status == -signal.SIGKILL:
                moments.append(round(time.monotonic() - begin, 2))
    child(lambda: kind.go_on(folder), output)
    return {"moments": moments, "equal": outcome(folder) == told}


if __name__ == "__main__":
    main()
