"""Which methods can be private, and how much noise keeps a whole run within its budget.

A method is covered where everything that its clients send of their samples is: values that were trained by clipped
gradients with noise, diagonal Grams with noise, and numbers that are declared. What the server makes of it costs
nothing. A run's releases are known before it begins, from its phases, its rounds and who takes part in them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import torch

from fedbraid.config import Config
from fedbraid.core import ClientId, Method, Model, Phase, Task
from fedbraid.engine import schedule
from fedbraid.errors import UserError
from fedbraid.local.objectives import NextToken, Objective, Quadratic, cross_entropy, squared_error
from fedbraid.methods import About
from fedbraid.methods.base import among
from fedbraid.phases import Measure, Train, no_teacher, nobody, train_samples
from fedbraid.privacy.accountant import epsilon, noise_multiplier
from fedbraid.privacy.feasibility import GramPlan, relative_error, statement
from fedbraid.privacy.ledger import Budget, Ledger, Release
from fedbraid.privacy.protection import Protection


def check_settings(config: Config) -> None:
    """`UserError` for settings under which a sample's part would depend on other samples, or on private numbers."""
    values = config.privacy
    if values.epsilon is None:
        return
    if values.samples is None:
        raise UserError(
            "privacy.epsilon needs privacy.samples: how many samples a client has in a task as anybody may know it, "
            "since the true number is private; the sampling rate, the steps and the clients' weights follow from it"
        )
    for name, value, usual in (
        ("adapter.dropout", config.adapter.dropout, 0),
        ("data.augment", config.data.augment, "none"),
    ):
        if value != usual:
            raise UserError(
                f"{name} = {value!r} draws one random number after another, so that a sample changes what others "
                f"get; under privacy.epsilon set {name} = {usual!r}"
            )


def drafted(config: Config) -> Protection | None:
    """The protection that a configuration asks for, with the noise it names or one to be multiplied; None for none."""
    values, training = config.privacy, config.training
    if values.epsilon is None or values.samples is None:
        return None
    sigma = values.noise or 1.0
    return Protection(
        values.samples,
        training.batch_size,
        training.epochs,
        sigma,
        values.clip,
        sigma * values.noise_grams,
        values.clip_grams,
    )


def settled(
    config: Config, method: Method, about: About, tasks: Sequence[Task], clients: Sequence[ClientId], seed: int
) -> Config:
    """The configuration with the least noise that keeps the run within its budget, where it names none.

    `UserError` where something of what the method sends is not covered.
    """
    values, draft = config.privacy, drafted(config)
    check_method(method, about)
    if draft is None or values.epsilon is None or values.noise:
        return config
    planned = plan(method, draft, tasks, clients, seed)
    noise = noise_multiplier(Budget(values.epsilon, values.delta), planned)
    return config.model_copy(update={"privacy": values.model_copy(update={"noise": noise})})


def terms(config: Config) -> str:
    """Every setting that a client's messages follow from, as text."""
    sections = ("method", "data", "stream", "partition", "backbone", "adapter", "training", "privacy")
    values = {name: config.model_dump()[name] for name in sections}
    return json.dumps({**values, "seed": config.run.seed}, sort_keys=True)


def check_method(method: Method, about: About) -> None:
    """`UserError` naming the method and what of it is not covered."""
    for name, phase in method.phases.items():
        reason = "" if phase.cohort is nobody else _uncovered(phase)
        if reason:
            raise UserError(
                f"method {about.name!r} cannot run under privacy.epsilon: no private release is known for all that it "
                f"sends ({about.travels}); its phase {name!r} {reason}"
            )


def plan(
    method: Method, protection: Protection, tasks: Sequence[Task], clients: Sequence[ClientId], seed: int
) -> list[Release]:
    """The most releases that any client makes of its samples of one task: of each kind the largest number."""
    times: dict[tuple[ClientId, int], Counter[tuple[float, float]]] = {}
    for round, phase in schedule(method, tasks, seed):
        for release in releases(phase, protection):
            for client in phase.cohort(clients, round):
                made = times.setdefault((client, round.task.index), Counter())
                made[release.sigma, release.rate] += release.times
    most: Counter[tuple[float, float]] = Counter()
    for made in times.values():
        most |= made
    return [Release(sigma, count, rate) for (sigma, rate), count in sorted(most.items())]


def releases(phase: Phase, protection: Protection) -> tuple[Release, ...]:
    """What one round of a phase releases of a client's samples."""
    found: list[Release] = []
    if isinstance(phase, Train):
        found.append(protection.training)
    if isinstance(phase, Train | Measure) and phase.covered:
        found.append(protection.grams)
    return tuple(found)


def notes(
    config: Config, method: Method, model: Model, tasks: Sequence[Task], clients: Sequence[ClientId]
) -> list[str]:
    """What a reader must know before the run: what it will spend, and where noise drowns what it is to hide."""
    values, protection = config.privacy, drafted(config)
    assert protection
    assert values.epsilon is not None
    ledger = Ledger()
    for release in plan(method, protection, tasks, clients, config.run.seed):
        ledger = ledger + release
    spends = epsilon(ledger, values.delta)
    told = [
        f"private: epsilon {spends:.4g} of {values.epsilon:g} at delta {values.delta:g} when it ends; "
        f"{protection.words()}"
    ]
    if spends > values.epsilon:
        told.append(
            f"the run will pause before epsilon exceeds {values.epsilon:g}: privacy.noise is too small for its rounds"
        )
    told += _drowned(protection, _trained(method, model, tasks), len(clients))
    if any(getattr(phase, "covered", False) for phase in method.phases.values()):
        width = sum(d_in for _, d_in in model.layers.values()) + model.width + 1
        samples = protection.samples * len(clients)
        grams = GramPlan("diagonal", width, samples, protection.sigma_grams, clients=len(clients))
        told += [statement(grams)] if relative_error(grams) > 1 else []
    return told


def _trained(method: Method, model: Model, tasks: Sequence[Task]) -> int:
    """The most values that a client trains in a round of the first task."""
    draws = torch.Generator().manual_seed(0)
    values = {**model.fresh(draws), **model.fresh_head(tasks[0], draws)}
    found = [
        sum(tensor.numel() for tensor in among(values, phase.kinds(round)).values())
        + sum(values[key].numel() for key in phase.kinds(round) if key in values)
        for round, phase in schedule(method, tasks[:1], 0)
        if isinstance(phase, Train)
    ]
    return max(found, default=0)


def _drowned(protection: Protection, numbers: int, clients: int) -> Iterator[str]:
    """A step's noise has a norm of `sigma clip sqrt(numbers) / expected`, a mean gradient at most `clip`; clients'
    noises are independent, so their mean has `1 / sqrt(clients)` of it."""
    ratio = protection.sigma * math.sqrt(numbers / clients) / protection.expected
    if ratio > 1:
        yield (
            f"the noise of a step, in the mean of {clients} clients, is {ratio:.2g} times the largest possible "
            f"gradient: {numbers:,} trained values on {protection.samples} samples a client; noise no larger than the "
            f"gradient takes about {math.ceil(protection.samples * ratio):,} samples a client in as many times larger "
            "batches, or a smaller adapter"
        )


def _uncovered(phase: Phase) -> str:
    """Why what a phase sends is not covered; empty where it is."""
    if isinstance(phase, Train):
        strange = [one for one in phase.objectives if not _of_one_sample(one)]
        if strange:
            return f"learns from more than single samples ({type(strange[0]).__name__})"
        if phase.teacher is not no_teacher:
            return "learns from a teacher's answers to whole batches"
        measured = bool(phase.measures.gives or phase.sums.gives)
    else:
        measured = True
    if measured and not getattr(phase, "covered", False):
        return "sends something beside what it trains that noise does not cover (docs/privacy.md says what it covers)"
    return "" if phase.data is train_samples else "reads other samples than those of the task"


def _of_one_sample(objective: Objective) -> bool:
    """Whether a sample's loss depends on that sample alone."""
    return objective in (cross_entropy, squared_error) or isinstance(objective, NextToken | Quadratic)
