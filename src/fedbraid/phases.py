"""The kinds of communication round that methods are made of.

    Train     clients train and send what they tuned (and measured); the server merges
    Measure   clients measure on the model as it is; the server absorbs the sum
    serve     a step of the server alone
    evaluate  clients count right answers; the state stays as it is

All have one shape (see `core.Phase`), so the engine and the runtimes do not tell them apart. What clients measure is a
function together with what each of its names is (`Measured`): from it follows what a phase declares (`gives`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from fedbraid.algebra import ZERO, Statistic, Tensors, prefix, select, without
from fedbraid.core import KEEP, Client, ClientId, Data, Model, Round, State, Task
from fedbraid.errors import UserError
from fedbraid.local.capacities import Capacities
from fedbraid.local.exams import right_answers
from fedbraid.local.objectives import Objective, cross_entropy
from fedbraid.local.training import Training, train
from fedbraid.merges import Merge, deviation
from fedbraid.merges.base import MEASURED
from fedbraid.quantities import RESERVED, SAMPLES, TRAINING_METRICS, VALUE, VALUES, Gives, placed
from fedbraid.wire import declared, undeclared

Cohort = Callable[[Sequence[ClientId], Round], Sequence[ClientId]]

BESIDE = "beside"
"""The kind of what adds up beside the merge in a training round."""


@dataclass(frozen=True)
class Measured:
    """What a client measures on the model with the given values in place, and what each of its names is.

    `UserError` where a declaration gives a name a meaning that it cannot have, and, when clients measure, where the
    function gives what was not declared. What it returns as `keep/<name>` stays at the client.
    """

    function: Callable[[Model, Tensors, Data, Round], Tensors]
    gives: Gives

    def __post_init__(self) -> None:
        declared(self.gives, f"what {_name_of(self.function)} measures", {**RESERVED, **dict.fromkeys(VALUES, VALUE)})

    def __call__(self, model: Model, values: Tensors, data: Data, round: Round) -> Tensors:
        found = self.function(model, values, data, round)
        strange = undeclared(without(found, KEEP), self.gives)
        if strange:
            raise UserError(
                f"{round}: {_name_of(self.function)} measures {', '.join(map(repr, strange))}, which is not declared; "
                f"declared are {', '.join(self.gives) or 'no names'}: Measured(function, {{{strange[0]!r}: SUM, ...}})"
            )
        return found


def _name_of(function: Callable[..., Any]) -> str:
    """What an error calls a function: its own name, also behind `functools.partial`."""
    return getattr(getattr(function, "func", function), "__qualname__", type(function).__name__)


def everyone(clients: Sequence[ClientId], _round: Round) -> Sequence[ClientId]:
    """All clients take part."""
    return clients


def nobody(_clients: Sequence[ClientId], _round: Round) -> Sequence[ClientId]:
    """The cohort of a step of the server alone."""
    return ()


def every_task(_task: Task) -> bool:
    """The phase has its rounds in every task."""
    return True


def first_task(task: Task) -> bool:
    """The phase has its rounds in the first task alone."""
    return task.index == 0


def train_samples(client: Client, task: Task) -> Data:
    """The client's training samples of the task."""
    return client.train(task)


def test_samples(client: Client, task: Task) -> Data:
    """The client's test samples of all tasks seen."""
    return client.test(task)


nothing = Measured(lambda _model, _values, _data, _round: {}, {})
"""Measures nothing."""


def unchanged(_model: Model, state: State, _sums: Tensors, _round: Round) -> State:
    """The state as it is."""
    return state


def no_teacher(_shared: Tensors, _round: Round) -> None:
    """Training without a teacher."""


@dataclass(frozen=True)
class Sampled:
    """`count` clients drawn without replacement, anew in every round, by the round's own seed."""

    count: int

    def __call__(self, clients: Sequence[ClientId], round: Round) -> Sequence[ClientId]:
        order = torch.randperm(len(clients), generator=round.generator("cohort"))
        drawn: list[int] = order[: self.count].tolist()
        return [clients[i] for i in sorted(drawn)]


@dataclass(frozen=True)
class Train:
    """Clients train `kinds(round)` from `weights(shared, round)`; the server merges.

    `measures` are taken after training, on what was received with the trained values in place: what they return is
    for the merge, and what `sums` return adds up beside it, for `absorb`. With `relative` what is sent and merged is
    the change of a value. `teacher` gives the weights of a model whose logits the objectives see. `capacities` says
    which part of a low-rank adapter a client trains.
    """

    rounds: int
    kinds: Callable[[Round], Sequence[str]]
    training: Training
    merge: Merge
    weights: Callable[[Tensors, Round], Tensors]
    objectives: Sequence[Objective] = (cross_entropy,)
    measures: Measured = nothing
    sums: Measured = nothing
    absorb: Callable[[Model, State, Tensors, Round], State] = unchanged
    teacher: Callable[[Tensors, Round], Tensors | None] = no_teacher
    relative: bool = False
    capacities: Capacities = field(default_factory=Capacities)
    cohort: Cohort = everyone
    data: Callable[[Client, Task], Data] = train_samples
    tasks: Callable[[Task], bool] = every_task
    evaluated: bool = True
    covered: bool = False
    """Whether what is measured is released with noise where training is."""

    def __post_init__(self) -> None:
        name = type(self.merge).__name__
        if not isinstance(self.merge, Merge):
            raise UserError(
                f"the merge {name} does not declare what its statistics hold: let the class derive from Merge, with a "
                'method gives that returns {"sum": WEIGHTED, ...}, by the beginnings of names'
            )
        declared(self.merge.gives(), f"the merge {name}")
        known = {*MEASURED, *self.merge.reads()}
        strange = [one for one in self.measures.gives if one.split("/", 1)[0] not in known]
        if strange:
            raise UserError(
                f"the merge {name} does not read {', '.join(map(repr, strange))}, which is measured for it, and would "
                "take it for a tuned value: give sums in place of measures, or a merge whose method reads names it"
            )

    def gives(self, round: Round, *, lifted: bool = False) -> Gives:
        values = {kind.split("/", 1)[0]: VALUE for kind in self.kinds(round)}
        sent = self.merge.gives() if lifted else {"count": SAMPLES, **values, **self.measures.gives}
        beside = {name: quantity.again for name, quantity in placed(BESIDE, self.sums.gives).items()}
        return {**sent, **TRAINING_METRICS, **beside}

    def client_update(self, model: Model, shared: Tensors, data: Data, round: Round) -> Tensors:
        trained = train(
            model,
            self.capacities.receive(self.weights(shared, round), data.client),
            self.kinds(round),
            data,
            round,
            shared=shared,
            training=self.training,
            objectives=self.objectives,
            teacher=self.teacher(shared, round),
        )
        trained = self.capacities.send(trained, data.client)
        values = without(trained, "metric")
        held = {**shared, **values}
        protection = self.training.protection
        count = protection.samples if protection else len(data)
        update = {"count": torch.tensor(float(count), dtype=torch.float64), **trained}
        update |= self.measures(model, held, data, round)
        update |= prefix(self.sums(model, held, data, round), BESIDE)
        return update | {key: value - shared[key] for key, value in values.items()} if self.relative else update

    def lift(self, shared: Tensors, update: Tensors, round: Round) -> Statistic:  # noqa: ARG002
        beside = {key: value for key, value in update.items() if key.startswith(("metric/", f"{BESIDE}/"))}
        whole = self.capacities.whole(shared, without(update, "metric", BESIDE))
        return self.merge.lift(whole) + Statistic(beside)

    def watch(self, shared: Tensors, update: Tensors, round: Round) -> Statistic:  # noqa: ARG002
        factors = {key: value for key, value in update.items() if key == "count" or key.startswith("lora_")}
        whole = self.capacities.whole(shared, factors)
        if self.relative:
            whole |= {key: shared[key] + change for key, change in whole.items() if key != "count"}
        return deviation.lift(whole)

    def figures(self, total: Statistic, watched: Statistic) -> Mapping[str, Any]:
        by_layer = deviation.solve(watched, self.capacities.scale)
        if "metric/samples" not in total:  # private training tells no loss
            return {"deviation": by_layer}
        return {"loss": (total["metric/loss"] / total["metric/samples"]).item(), "deviation": by_layer}

    def server_update(self, model: Model, state: State, total: Statistic, round: Round) -> State:
        merged = self.merge.solve(total)
        if self.relative:
            merged = {key: state.shared[key].double() + change for key, change in merged.items()}
        values = {key: value.float() for key, value in merged.items()}
        return self.absorb(model, State({**state.shared, **values}, state.server), select(total, BESIDE), round)


@dataclass(frozen=True)
class Measure:
    """Clients measure on what they received; `absorb` puts the sum into the state, which stays as it is without."""

    statistic: Measured
    absorb: Callable[[Model, State, Statistic, Round], State] = unchanged
    additive: Callable[[Tensors], Statistic] = Statistic
    """The statistic of what was measured, under names of the same quantities."""
    rounds: int = 1
    cohort: Cohort = everyone
    data: Callable[[Client, Task], Data] = train_samples
    tasks: Callable[[Task], bool] = every_task
    evaluated: bool = True
    covered: bool = False
    """Whether what is measured is released with noise where training is."""

    def gives(self, round: Round, *, lifted: bool = False) -> Gives:  # noqa: ARG002
        return self.statistic.gives

    def client_update(self, model: Model, shared: Tensors, data: Data, round: Round) -> Tensors:
        return self.statistic(model, shared, data, round)

    def lift(self, shared: Tensors, update: Tensors, round: Round) -> Statistic:  # noqa: ARG002
        return self.additive(update)

    def watch(self, shared: Tensors, update: Tensors, round: Round) -> Statistic:  # noqa: ARG002
        return ZERO

    def figures(self, total: Statistic, watched: Statistic) -> Mapping[str, Any]:  # noqa: ARG002
        return {}

    def server_update(self, model: Model, state: State, total: Statistic, round: Round) -> State:
        return self.absorb(model, state, total, round)


def serve(step: Callable[[Model, State, Round], State], *, tasks: Callable[[Task], bool] = every_task) -> Measure:
    """A step of the server alone: nobody takes part, so the sum is `ZERO`."""

    def absorb(model: Model, state: State, _total: Statistic, round: Round) -> State:
        return step(model, state, round)

    return Measure(nothing, absorb, cohort=nobody, tasks=tasks, evaluated=False)


class Exam(Protocol):
    """What is counted on test samples, as sums; where classes are told, `correct` and `total` by group are among it."""

    def gives(self) -> Gives:
        """What each name of it is."""
        ...

    def __call__(self, model: Model, weights: Tensors, data: Data, *, offsets: Sequence[int]) -> Tensors: ...


def evaluate(
    weights: Callable[[Tensors], Tensors], offsets: Sequence[int] | None = None, exam: Exam = right_answers
) -> Measure:
    """The exam on test samples, by group of classes: the given offsets, or the tasks seen so far."""

    def count(model: Model, shared: Tensors, data: Data, round: Round) -> Tensors:
        return exam(model, weights(shared), data, offsets=offsets or round.task.offsets)

    return Measure(Measured(count, exam.gives()), data=test_samples, evaluated=False)
