"""Robust mode under attack: 3 of 10 clients send what is well-formed and false, in every round.

    python benchmarks/attacks.py [--methods lorm,fedit] [--cohorts iid,disjoint] [--seeds 0,1,2] [--attacks ...]

Digits, the embedded backbone, 80 samples a class, two tasks of five classes, two rounds of one epoch. Cohorts:

    iid          all clients hold all classes
    dirichlet    beta 0.5
    disjoint     every client holds one class of each task
    ...+alike    the same with robust.alike set: clients are said to hold the same classes

For each attack (see `fedbraid.testing.attacks`), over the seeds:

    attackers   false updates that were refused, of all       honest    honest updates that were refused
    equal       runs whose final state is bit for bit that of the honest alone
    dist.       how far the merge of the first attacked round lies from that of the honest alone, as a multiple of how
                far that one moved, without robust mode and with it (the largest of the seeds)
    alone ...   the accuracy at the end: of the honest alone, attacked without robust mode, attacked with it

The honest alone are a run of the same data in which attackers are absent wherever they would have sent what is false.
The row "nobody attacks" compares a run in robust mode with one that is not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

import torch

from fedbraid.config import parse
from fedbraid.core import ClientId, Event, Round, State
from fedbraid.errors import RunError
from fedbraid.experiment import Experiment, build
from fedbraid.runtimes.gate import Gate
from fedbraid.runtimes.robust import Thresholds
from fedbraid.runtimes.rules import Rules
from fedbraid.runtimes.server import Server
from fedbraid.testing.attacks import ATTACKS, STEALTHY, Attacked, honest

COHORTS: Mapping[str, Mapping[str, Any]] = {
    "iid": {"kind": "iid"},
    "dirichlet": {"kind": "dirichlet", "beta": 0.5, "min_samples": 2},
    "disjoint": {"kind": "quantity", "alpha": 1},
}
ALIKE = "+alike"
ATTACKERS = ("2", "5", "8")
NOBODY = "nobody attacks"


Places = frozenset[tuple[Round, ClientId]]


@dataclass(frozen=True)
class Ran:
    """A run to its end: its rounds, who sent what is false in which of them, who was refused, the accuracy."""

    events: Sequence[Event]
    falsified: Places
    refused: Places
    accuracy: float

    @property
    def state(self) -> State:
        return self.events[-1].state


@cache
def experiment(method: str, cohort: str, seed: int) -> Experiment:
    return build(
        parse(
            {
                "method": method,
                "data": {"name": "digits", "train_per_class": 80, "test_per_class": 30},
                "stream": {"tasks": 2},
                "partition": {"clients": 10, **COHORTS[cohort.removesuffix(ALIKE)]},
                "adapter": {"rank": 2, "blocks": "0-1"},
                "training": {"rounds": 2, "epochs": 1, "lr": 5e-3},
                "run": {"seed": seed, "threads": 1, "evaluate": "task", "device": "cpu"},
            }
        )
    )


def ran(
    one: Experiment, attack: str = NOBODY, *, robust: Thresholds | None = None, absent: Places = frozenset()
) -> Ran | None:
    """None where the run could not be finished."""
    transport = Attacked(one.here(), one.work, ATTACKS.get(attack, honest), ATTACKERS, absent)
    server = Server(one.work, transport, rules=Rules(quorum=0.5), gate=Gate(one.work), robust=robust)
    try:
        events = [*one.events(server)]
    except RunError:
        return None
    test = events[-1].test
    assert test
    right = test.total["correct"].sum() / test.total["total"].sum()
    refused = {(event.round, client) for event in events for client in event.outcome.refused}
    return Ran(events, frozenset(transport.falsified), frozenset(refused), right.item())


@cache
def alone(method: str, cohort: str, seed: int, absent: Places) -> Ran | None:
    """The honest: attackers are absent wherever they send what is false."""
    return ran(experiment(method, cohort, seed), absent=absent)


def apart(run: Ran, others: Ran) -> float:
    """Between the states after the first round with a false update, over how far the honest one moved."""
    if not run.falsified:
        return 0.0
    rounds = {round for round, _ in run.falsified}
    first = min(event.number for event in others.events if event.round in rounds)
    before = others.events[first - 1].state.shared if first else {}
    away, moved = 0.0, 0.0
    for name, value in others.events[first].state.shared.items():
        start = before.get(name, torch.zeros_like(value))
        away += (run.events[first].state.shared[name].double() - value.double()).square().sum().item()
        moved += (value.double() - start.double()).square().sum().item() if start.shape == value.shape else 0.0
    return (away / moved) ** 0.5 if moved else 0.0


def same(one: State, other: State) -> bool:
    pairs = [(one.shared, other.shared), (one.server, other.server)]
    return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs)


def row(method: str, cohort: str, attack: str, seeds: Sequence[int]) -> str:
    """What became of one attack, over the seeds."""
    limits = Thresholds(alike=cohort.endswith(ALIKE))
    caught, all_false, wrong, equal = 0, 0, 0, 0
    far: list[tuple[float, float]] = []
    scores: list[tuple[float, float, float]] = []
    for seed in seeds:
        one = experiment(method, cohort, seed)
        robust = ran(one, attack, robust=limits)
        plain = alone(method, cohort, seed, frozenset()) if attack == NOBODY else ran(one, attack)
        if not robust or not plain:
            return f"{attack:<20} (seed {seed}: the run {'with' if plain else 'without'} robust mode does not finish)"
        if attack != NOBODY and not robust.falsified:
            return f"{attack:<20} (nothing of this kind is sent)"
        others = alone(method, cohort, seed, robust.falsified)
        assert others
        caught += len(robust.refused & robust.falsified)
        all_false += len(robust.falsified)
        wrong += len(robust.refused - robust.falsified)
        equal += same(robust.state, others.state)
        far += [(apart(plain, others), apart(robust, others))]
        scores += [(others.accuracy, plain.accuracy, robust.accuracy)]
    accuracy = "".join(f"{100 * fmean(column):9.1f}" for column in zip(*scores, strict=True))
    distances = "".join(f"{max(column):11.3g}" for column in zip(*far, strict=True))
    return f"{attack:<20}{f'{caught}/{all_false}':>9}{wrong:>8}{f'{equal}/{len(seeds)}':>8}{distances}{accuracy}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", default="lorm,fedit")
    parser.add_argument("--cohorts", default="iid,dirichlet,disjoint,iid+alike,dirichlet+alike")
    parser.add_argument("--attacks", default=",".join([NOBODY, *ATTACKS]))
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin, seeds = time.process_time(), [*map(int, options.seeds.split(","))]
    for method in options.methods.split(","):
        for cohort in options.cohorts.split(","):
            print(f"\n{method}, {cohort}")
            print("attack              attackers  honest   equal  dist. off    dist. on    alone      off       on")
            for attack in options.attacks.split(","):
                print(row(method, cohort, attack, seeds), flush=True)
    print(f"\n{time.process_time() - begin:.0f} s of processor time; outside the promise: {', '.join(STEALTHY)}")


if __name__ == "__main__":
    main()
