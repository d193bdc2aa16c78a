"""The gate under malformed answers, and under honest ones.

    python benchmarks/gate.py [--malformed 1000] [--honest 1000] [--seed 0]

Malformed: real rounds of LoRM and FedEx-LoRA in the tiny world of digits are run again, each time with one client's
answer replaced by one of another kind (`fedbraid.testing.malformed`), all kinds in turn; round, client and what is
changed are drawn by the seed. A round counts as

    accepted    the answer is in the sum            aborted    the round raised what it may raise
    crashed     the round raised anything else      equal      the sum is that of the others alone, bit for bit

One kind more is an honest answer that comes twice: it must count once.
Honest: runs of both methods with one seed after another go through the gate until there are so many updates.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence

import torch

from fedbraid.errors import RunError
from fedbraid.local.training import Training
from fedbraid.methods import METHODS, Setting, make
from fedbraid.models import Adapter
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.gate import Gate
from fedbraid.testing import image_world
from fedbraid.testing.malformed import KINDS
from fedbraid.testing.replay import TWICE, Place, is_update, judged, places, recorded

ALL = (*KINDS, TWICE)
METHOD_NAMES = ("lorm", "fedex_lora")


def work_of(name: str) -> Work:
    """The work of clients in the tiny world of digits."""
    adapter = Adapter(rank=2, blocks="0-1")
    setting = Setting(adapter, Training(epochs=1, batch_size=16, lr=1e-3, augment=False), rounds=2)
    return Work(make(METHODS[name](), setting), image_world().model(adapter), Codec())


def malformed(count: int, seed: int) -> Counter[str]:
    """What became of so many malformed answers."""
    draw, found = random.Random(seed), Counter[str]()
    drawn = [place for work in map(work_of, METHOD_NAMES) for place in places(work, recorded(work, image_world()))]
    for number in range(count):
        kind = ALL[number % len(ALL)]
        result, what = judged(kind, *chosen(kind, drawn, draw))
        if result != "equal":
            print(f"{kind}: {result}: {what}")
        found[result] += 1
        found[f"{kind}: {result}"] += 1
    return found


def chosen(kind: str, drawn: Sequence[Place], draw: random.Random) -> tuple[Place, bytes]:
    """A place that this kind can be made of, and the answer."""
    while True:
        place = draw.choice(drawn)
        payload = place.payload(kind, draw)
        if payload is not None:
            return place, payload


def honest(count: int, seed: int) -> tuple[int, int]:
    """(updates that came, updates that were refused)."""
    works, came, refused = [work_of(name) for name in METHOD_NAMES], 0, 0
    while came < count:
        for work in works:
            try:
                rounds = recorded(work, image_world(), seed=seed, gate=Gate(work))
            except RunError as error:
                print(error)
                refused, came = refused + 1, came + 1
                continue
            came += sum(is_update(work, payload) for was in rounds for payload in was.answers.values())
        seed += 1
    return came, refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--malformed", type=int, default=1000)
    parser.add_argument("--honest", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.perf_counter()
    found = malformed(options.malformed, options.seed)
    print(f"{options.malformed} malformed answers of {len(ALL)} kinds, in {time.perf_counter() - begin:.0f} s")
    for result in ("accepted", "crashed", "aborted", "different", "equal"):
        print(f"  {result:>9}: {found[result]}")
    for kind in ALL:
        told = {result: found[f"{kind}: {result}"] for result in ("accepted", "crashed", "aborted", "different")}
        print(f"  {found[f'{kind}: equal']:>4} equal  {kind}{f'  {told}' if any(told.values()) else ''}")
    came, refused = honest(options.honest, options.seed)
    print(f"{came} honest updates: {refused} refused, in {time.perf_counter() - begin:.0f} s altogether")
    sys.exit(found["equal"] != options.malformed or refused > 0)


if __name__ == "__main__":
    main()
