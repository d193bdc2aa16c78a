"""Hostile bytes at every place that reads bytes: nothing of them is executed, and each ends in an error with a name.

    python benchmarks/hostile.py

Every payload that can run code would make a folder, the marker. Each case runs in a process of its own, bounded in
memory (8 GB) and time (120 s). Its end counts as

    named       a `UserError` or `RunError`; of an answer on the wire, that its sender is refused and the others are
                merged
    passed by   nothing of it was used: a damaged journal is asked for again, a table column stays text

and anything else, an execution first of all, as a failure. A configuration may name code of the user's own on purpose
(`data.name = "mine.py:DATA"`): that is what such a reference is for, and no case here.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from hostile_places import PLACES, Act, PassedBy
from small_runs import child, warm

from fedbraid.errors import RunError, UserError

GIB = 2**30


def judged(act: Act, root: Path, marker: Path) -> tuple[str, str]:
    """(what came of it, what was said)."""

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (8 * GIB, 8 * GIB))
        try:
            act()
        except PassedBy:
            sys.exit(3)
        except (UserError, RunError) as error:
            print(error)
            sys.exit(2)

    ended = child(work, root / "output", within=120)
    said = " ".join(ended.text.split())
    if marker.exists():
        return "EXECUTED", said
    return {2: "named", 3: "passed by", 0: "ACCEPTED"}.get(ended.status, f"CRASHED ({ended.status})"), said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PLACES)
    parser.add_argument("--verbose", action="store_true", help="print what each error says")
    options = parser.parse_args()
    begin, found = time.perf_counter(), Counter[str]()
    with tempfile.TemporaryDirectory() as scratch:
        if options.only in (None, "files"):
            warm(Path(scratch, "warm"))
        for place in [options.only] if options.only else PLACES:
            names = [title for title, _ in PLACES[place](Path(scratch), Path(scratch, "marker"))]
            for number, title in enumerate(names):
                root, marker = Path(scratch, f"{place}-{number}"), Path(scratch, f"marker-{place}-{number}")
                root.mkdir()
                act = dict(PLACES[place](root, marker))[title]
                result, said = judged(act, root, marker)
                found[result] += 1
                if options.verbose or result not in ("named", "passed by"):
                    print(
                        f"  {result:9} {place}: {title}: {said[-1500:] if result[0].isupper() else said[:200]}",
                        flush=True,
                    )
    total = found.total()
    good = found["named"] + found["passed by"]
    print(
        f"{total} hostile payloads: {found['EXECUTED']} executed, {found['named']} named errors, {found['passed by']} "
        f"passed by, {total - good} FAILED; {time.perf_counter() - begin:.0f} s"
    )
    sys.exit(good != total)


if __name__ == "__main__":
    main()
