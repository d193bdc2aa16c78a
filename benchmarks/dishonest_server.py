"""What a dishonest server may try against a site of a federation, and what it learns by it.

    python benchmarks/dishonest_server.py [--only KIND] [--json]

Every attack is on sites of its own, as bytes, through the program that a site runs: what counts is what would have
travelled. Sites hold planted values (a column of patients, a class of which no server is told, words, a number, names
of folders), which are looked for in everything that came back; files that no site has a reason to open, which are
watched; and code that leaves a marker. An attack has succeeded where

    learned     it got what its own criterion says: a second sum of a statistic, an update on one sample, more budget
    spilled     a planted value came back, whatever it was written in
    opened      a watched file was opened, a process started, a connection made
    executed    the marker is there
    crashed     the site's program ended, or came to an error that nobody foresaw
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import dishonest_budgets  # noqa: F401 (attacks are added as their files are imported)
import dishonest_errors  # noqa: F401
import dishonest_greetings  # noqa: F401
import dishonest_questions  # noqa: F401
import dishonest_steps  # noqa: F401
import dishonest_sums  # noqa: F401
from dishonest_sites import ATTACKS, Attack, World, spilled


@dataclass(frozen=True)
class Verdict:
    """What came of one attack: what came back, what the server learned, and how long it took."""

    kind: str
    what: str
    came: str
    learned: str
    seconds: float


def judged(attack: Attack, world: World) -> Verdict:
    """The attack, and everything that it came to."""
    world.begin()
    begin = time.perf_counter()
    found: list[str] = []
    with world.watched.on():
        try:
            found.append(attack.run(world))
        except Exception:  # whatever it is: a site's errors are replies
            found.append(f"crashed: {traceback.format_exc()}")
    came = [one for target in world.targets for one in target.came]
    codes = Counter(one.code or "answers" for one in came)
    found += [f"spilled: {', '.join(spilled(came))}"] if spilled(came) else []
    found += [f"opened: {', '.join(world.watched.paths)}"] if world.watched.paths else []
    found += ["executed"] if world.marker.exists() else []
    found += ["crashed: an error that nobody foresaw"] if codes["unforeseen"] else []
    world.marker.unlink(missing_ok=True)
    told = ", ".join(f"{count} x {code}" if count > 1 else code for code, count in codes.most_common())
    return Verdict(attack.kind, attack.what, told, "; ".join(filter(None, found)), time.perf_counter() - begin)


def chosen(only: Sequence[str]) -> list[Attack]:
    """The attacks of these kinds, all where none is named."""
    return [attack for attack in ATTACKS if not only or attack.kind in only]


def main() -> None:
    kinds = list(dict.fromkeys(attack.kind for attack in ATTACKS))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=kinds, action="append", default=[])
    parser.add_argument("--json", action="store_true", help="one object for programs")
    options = parser.parse_args()
    logging.disable()  # what a site writes into its log is not told here
    begin = time.process_time()
    found: list[Verdict] = []
    with tempfile.TemporaryDirectory() as scratch:
        world = World(Path(scratch))
        for attack in chosen(options.only):
            found.append(judged(attack, world))
            if not options.json:
                verdict = found[-1]
                print(f"{verdict.kind:24} {verdict.what[:76]:76} {verdict.came[:60]:60} {verdict.learned or 'nothing'}")
    successes = sum(bool(verdict.learned) for verdict in found)
    if options.json:
        print(json.dumps({"attacks": [asdict(one) for one in found], "learned": successes}, indent=1))
    else:
        by_kind = Counter(verdict.kind for verdict in found)
        print("\n" + "\n".join(f"{kind:24} {count:4}" for kind, count in by_kind.items()))
        print(
            f"{len(found)} attacks, in {successes} the server learned something that the site did not allow; "
            f"{time.process_time() - begin:.0f} s of processor time"
        )
    sys.exit(successes > 0)


if __name__ == "__main__":
    main()
