"""Attacks on a site's privacy budget: what all runs together spend of its samples must stay within what it allows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from dishonest_questions import carrying, update
from dishonest_sites import Came, Target, World, attack, question, spelled

from fedbraid.algebra import Tensors
from fedbraid.privacy.account import EVERYTHING, LEDGER
from fedbraid.privacy.accountant import epsilon
from fedbraid.privacy.ledger import Ledger

BUDGETS = "privacy budgets"
EPSILON, DELTA = 4.0, 1e-4
"""What the site allows."""
PRIVATE = ("privacy.samples=60", "training.batch_size=20", f"privacy.epsilon={EPSILON}", f"privacy.delta={DELTA}")
TERMS = {"epsilon": EPSILON, "delta": DELTA, "modes": ("private",)}


def spent(target: Target) -> float:
    """The epsilon of all that the site has released of any class, over all of its accounts."""
    released: dict[str, Ledger] = {}
    for path in target.folder.glob(f"accounts/*/{LEDGER}"):
        for name, values in json.loads(path.read_bytes())["samples"].items():
            releases = Ledger.from_data(values).releases
            released[name] = reduce(Ledger.__add__, releases, released.get(name, Ledger()))
    of_all = released.pop(EVERYTHING, Ledger())
    whole = [reduce(Ledger.__add__, of_all.releases, ledger) for ledger in released.values()] or [of_all]
    return max(epsilon(ledger, DELTA) if ledger.releases else 0.0 for ledger in whole)


def over(target: Target) -> str:
    """Whether more was spent than the site allows."""
    return f"epsilon {spent(target):.4g} of {EPSILON:g} was spent" if spent(target) > EPSILON * (1 + 1e-6) else ""


def round_of(world: World, target: Target, *settings: str, name: str = "r", shift: float = 0.0, task: int = 0) -> Came:
    """What comes of the first private round of a run; `shift` makes the model another one."""
    config = world.config("digits", *PRIVATE, *settings)
    target.greet(world.sent(config, name=name))
    experiment, state, round = world.begun(config)
    shared = {key: value + shift for key, value in state.shared.items()}
    shared[f"head/{task}"] = shared.pop("head/0")
    return target.answer(spelled(question(shared, replace(round, task=experiment.tasks[task]), run=name)))


@attack(BUDGETS, "one honest private round, after which the budget is spent, and another")
def twice(world: World) -> str:
    target = world.site(**TERMS)
    if not update(round_of(world, target)):
        return "the honest round was refused, so the attacks on budgets show nothing"
    return "a second round came" if update(round_of(world, target, shift=0.1)) else over(target)


def allowed(title: str, *changes: dict[str, Any], **terms: Any) -> None:
    """An attack by greetings that ask for more than the site allows."""

    @attack(BUDGETS, title)
    def greeted(world: World) -> str:
        target, config = world.site(**{**TERMS, **terms}), world.config("digits", *PRIVATE)
        for changed in changes:
            if not target.greet(world.sent(config, privacy=changed)).code and not target.check().code:
                return f"the site took part under {changed}"
        return ""


allowed("a delta of 0.999999999", {"delta": 0.999999999})
allowed("a delta just above the site's own, below one over its samples", {"delta": DELTA * 1.0001}, {"delta": 0.008})
allowed("a delta of one over the samples, at a site that names none", {"delta": 1 / 120}, {"delta": 0.5}, delta=None)


@attack(BUDGETS, "a delta of one over a part of the samples, at a site that names none")
def delta_of_a_part(world: World) -> str:
    target, config = world.site(**TERMS | {"delta": None}), world.config("digits", *PRIVATE, "data.train_samples=20")
    target.greet(world.sent(config, privacy={"delta": 1 / 21}))
    return "" if target.check().code else "the site took part"


allowed(
    "a larger epsilon, one that is no number, none",
    *({"epsilon": e} for e in (4.0001, 1e308, math.inf, math.nan, "8", None)),
)
allowed("an epsilon of zero, below zero, true", *({"epsilon": e} for e in (0, -1, -math.inf, False, [4])))
allowed("a clip of zero, below zero, of no number", *({"clip": clip} for clip in (0, -1, math.nan, -math.inf)))
allowed("noise of zero, below zero, of no number", *({"noise": noise} for noise in (0, -1, math.nan, -math.inf)))


def respent(title: str, *runs: Sequence[str], **how: Any) -> None:
    """An attack by several runs on the same samples, which have one account."""

    @attack(BUDGETS, title)
    def asked(world: World) -> str:
        target = world.site(**TERMS, methods=("fedit", "fedavg"))
        given = [
            bool(update(round_of(world, target, *run, name=f"r{number}", **how))) for number, run in enumerate(runs)
        ]
        return over(target) or (f"{sum(given)} runs were answered" if sum(given) > 1 else "")


respent("four configurations that differ in clip by a millionth", *([f"privacy.clip={1 + n * 1e-6}"] for n in range(4)))
respent("other names, other seeds", *([f"run.seed={seed}"] for seed in range(4)))
respent("another method", (), ("method.name=fedavg",))
respent(
    "other learning rates, and optimizers", *([f"training.lr={lr}"] for lr in (1e-3, 1e-2)), ("training.optimizer=sgd",)
)
respent("a part of the samples, and then all", ("data.train_samples=40",), ())
respent("tasks cut otherwise, so that they hold some classes of before", (), ("stream.sizes=[1,3]",))
respent("a noise multiplier that protects nobody", ("privacy.noise=1e-9",), ("privacy.noise=1e-300",))
respent("a clip that swallows the noise", ("privacy.clip=1e9",), ("privacy.clip=1e-300",), ("privacy.clip=1e308",))
respent(
    "one declared sample, and a billion",
    ("privacy.samples=1",),
    ("privacy.samples=1000000000", "training.batch_size=1000000000"),
)


@attack(BUDGETS, "the order of classes exchanged, so that the same samples are another task")
def second_task(world: World) -> str:
    target = world.site(**TERMS)
    round_of(world, target)
    given = update(round_of(world, target, "stream.order=[2,3,0,1]", name="second", task=1))
    return "a second round came" if given else over(target)


@attack(BUDGETS, "an earlier round once more after a restart, with the same model and with another")
def earlier(world: World) -> str:
    target = world.site(**TERMS)
    first = update(round_of(world, target))
    again = update(round_of(world, target.restarted(), name="other"))
    other = update(round_of(world, target.restarted(), name="third", shift=1e-6))
    same = again and all(torch.equal(first[key], again[key]) for key in first)
    if again and not same:
        return "the same round with another noise"
    return "another model was answered" if other else over(target)


@attack(BUDGETS, "a model that makes the gradients of single samples infinite or no numbers")
def infinite(world: World) -> str:
    target, state, round = world.greeted(world.config("digits", *PRIVATE), **TERMS)
    honest = question(state.shared, round)
    for number, value in enumerate((1e30, math.inf, math.nan)):
        tensors = {key: torch.full_like(tensor, value) for key, tensor in state.shared.items()}
        there = replace(honest, text={**honest.text, "to": str(number)})
        found = update(target.answer(carrying(there, tensors)))
        if any(not bool(tensor.isfinite().all()) for tensor in found.values()):
            return "numbers that are none, from which a sample follows"
    return over(target)


@attack(BUDGETS, "a key of the noise that the server chooses, sent under the names by which a site remembers its own")
def chosen_key(world: World) -> str:
    def noisy() -> Tensors:
        target, state, round = world.greeted(world.config("digits", *PRIVATE), **TERMS)
        key = torch.zeros(32, dtype=torch.uint8)
        return update(target.answer(carrying(question(state.shared, round), state.shared | {"keep/private/key": key})))

    one, other = noisy(), noisy()
    return "two sites have the same noise" if one and all(torch.equal(one[key], other[key]) for key in one) else ""


@attack(BUDGETS, "the same question at two sites with the same samples, whose difference would tell a known noise")
def known_noise(world: World) -> str:
    one, other = (update(round_of(world, world.site(**TERMS))) for _ in range(2))
    return (
        "the noise follows from what the server knows" if all(torch.equal(one[key], other[key]) for key in one) else ""
    )


@attack(BUDGETS, "methods and phases of which nothing is private")
def uncovered(world: World) -> str:
    target = world.site(**TERMS, methods=("lorm", "fedproto", "ccvr", "afl"))
    taken = []
    for method in ("lorm", "fedproto", "ccvr", "afl"):
        kind = ("adapter.kind=none",) if method == "afl" else ()
        config = world.config("digits", *kind, method=method)
        changed = {"epsilon": EPSILON, "delta": DELTA, "samples": 60}
        if not target.greet(world.sent(config, privacy=changed)).code and not target.check().code:
            taken.append(method)
    return f"the site took part by {taken}" if taken else ""


@attack(BUDGETS, "a ledger that is gone, as if nothing had been spent")
def lost_ledger(world: World) -> str:
    target = world.site(**TERMS)
    round_of(world, target)
    for path in target.folder.glob(f"accounts/*/{LEDGER}"):
        path.unlink()
    return "a second round came" if update(round_of(world, target.restarted(), name="other", shift=0.1)) else ""
