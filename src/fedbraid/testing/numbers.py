"""A method without a model, for tests of runtimes: clients send numbers, which become count, sum and squares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fedbraid.algebra import Statistic, Tensors
from fedbraid.core import ClientId, Method, Model, Round, State, Task
from fedbraid.phases import Cohort, every_task, everyone
from fedbraid.quantities import SAMPLES, SUM, Gives

SHARED = {"scale": torch.tensor([2.0])}
"""What the numbers are multiplied by."""
ROUND = Round(Task(0, (0, 2)), "train", 0, 0)


@dataclass(frozen=True)
class Numbers:
    """A client's data: a list of numbers."""

    client: ClientId
    values: tuple[float, ...]
    memory: Tensors = field(default_factory=dict[str, Tensor])

    def __len__(self) -> int:
        return len(self.values)

    @property
    def ids(self) -> Tensor:
        return torch.arange(len(self.values))

    def remembering(self, memory: Tensors) -> Numbers:
        return replace(self, memory=memory)

    def recall(self, ids: Tensor, *, device: torch.device) -> Any:  # noqa: ARG002
        raise ValueError("numbers are not recalled")

    def batches(self, *_args: Any, **_options: Any) -> Iterator[Any]:
        return iter(())


@dataclass(frozen=True)
class Holder:
    """A client with the same numbers in every task."""

    id: ClientId
    values: tuple[float, ...] = ()

    def train(self, task: Task) -> Numbers:  # noqa: ARG002
        return Numbers(self.id, self.values)

    test = train


@dataclass
class Squares:
    """The phase; `seen` is what its clients received."""

    rounds: int = 1
    evaluated: bool = True
    tasks: Any = every_task
    cohort: Cohort = everyone
    seen: list[Tensors] = field(default_factory=list[Tensors])

    @staticmethod
    def data(client: Any, task: Task) -> Any:
        return client.train(task)

    def gives(self, round: Round, *, lifted: bool = False) -> Gives:  # noqa: ARG002
        return {"count": SAMPLES, "sum": SUM, "squares": SUM} if lifted else {"x": SUM}

    def client_update(self, model: Model, shared: Tensors, data: Any, round: Round) -> Tensors:  # noqa: ARG002
        self.seen.append(shared)
        return {"x": torch.tensor(data.values, dtype=torch.float64) * shared["scale"].double()}

    def lift(self, shared: Tensors, update: Tensors, round: Round) -> Statistic:  # noqa: ARG002
        x = update["x"].double()
        return Statistic({"count": torch.tensor(len(x)), "sum": x.sum(), "squares": x.square().sum()})

    def watch(self, shared: Tensors, update: Tensors, round: Round) -> Statistic:  # noqa: ARG002
        return Statistic({"largest": update["x"].max()})

    def figures(self, total: Statistic, watched: Statistic) -> Mapping[str, float]:  # noqa: ARG002
        return {key: value.item() for key, value in watched.items()}

    def server_update(self, model: Model, state: State, total: Statistic, round: Round) -> State:  # noqa: ARG002
        return state


def squares(phase: Squares | None = None) -> Method:
    """The method, of one phase named train."""
    phase = phase or Squares()
    return Method("squares", {"train": phase}, phase, dict)


def holders(values: Mapping[ClientId, tuple[float, ...]]) -> dict[ClientId, Holder]:
    """Clients by id with their numbers."""
    return {client: Holder(client, held) for client, held in values.items()}
