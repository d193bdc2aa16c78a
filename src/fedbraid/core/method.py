"""How: a method as a mapping of phases, a runtime that takes sums, and what becomes of a round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fedbraid.algebra import Statistic, Tensors
from fedbraid.core.model import Model
from fedbraid.core.rounds import ClientId, Round, State, Task
from fedbraid.core.samples import Client, Data
from fedbraid.errors import RunError
from fedbraid.quantities import Gives


class Phase(Protocol):
    """One kind of communication round: clients lift updates into statistics, the server solves the sum."""

    @property
    def rounds(self) -> int: ...
    @property
    def tasks(self) -> Callable[[Task], bool]:
        """In which tasks it has these rounds."""
        ...

    @property
    def evaluated(self) -> bool:
        """Whether the model after such a round is one to evaluate."""
        ...

    @property
    def cohort(self) -> Callable[[Sequence[ClientId], Round], Sequence[ClientId]]:
        """Who takes part; empty for a step of the server alone, whose sum is `ZERO`."""
        ...

    @property
    def data(self) -> Callable[[Client, Task], Data]:
        """Which of a client's samples the round reads."""
        ...

    def gives(self, round: Round, *, lifted: bool = False) -> Gives:
        """What a client's update holds, or what its statistic holds once it is lifted, by the beginnings of names."""
        ...

    def client_update(self, model: Model, shared: Tensors, data: Data, round: Round) -> Tensors: ...
    def lift(self, shared: Tensors, update: Tensors, round: Round) -> Statistic: ...
    def watch(self, shared: Tensors, update: Tensors, round: Round) -> Statistic:
        """What the server notes for the report of an update that it sees by itself; nothing under a secure sum."""
        ...

    def figures(self, total: Statistic, watched: Statistic) -> Mapping[str, Any]:
        """Numbers for the report: of the sum, and of the sum of what was noted. Plain data."""
        ...

    def server_update(self, model: Model, state: State, total: Statistic, round: Round) -> State: ...


@dataclass(frozen=True)
class Method:
    """A named sentence of phases, run in order for every task.

    `predicting(shared)` is what the model loads to predict; `evaluate` counts right answers with it.
    """

    name: str
    phases: Mapping[str, Phase]
    evaluate: Phase
    predicting: Callable[[Tensors], Tensors]

    def phase(self, round: Round) -> Phase:
        """`RunError` where the method has no phase of that name: rounds are named by servers too."""
        if round.phase != EVALUATE and round.phase not in self.phases:
            raise RunError(f"method {self.name!r} has no phase {round.phase!r}; it has {', '.join(self.phases)}")
        return self.evaluate if round.phase == EVALUATE else self.phases[round.phase]


EVALUATE = "evaluate"
"""The name of the evaluation phase in a `Round`."""

KEEP = "keep"
"""The kind of what an update leaves at the client."""


@dataclass(frozen=True)
class Refusal:
    """Why a client's answer was not taken: the rule that it breaks, in which tensor, by which value."""

    client: ClientId
    tensor: str
    rule: str
    value: str
    limit: str

    def __str__(self) -> str:
        where = f"{self.tensor}: " if self.tensor else ""
        against = f" (allowed: {self.limit})" if self.limit else ""
        return f"refused client {self.client}: {where}{self.rule}: {self.value}{against}"


@dataclass(frozen=True)
class Outcome:
    """What became of one round: the sum, who reported, who had no data for it, who failed or was refused, the cost."""

    total: Statistic
    reported: tuple[ClientId, ...] = ()
    idle: tuple[ClientId, ...] = ()
    bytes_up: Mapping[ClientId, int] = field(default_factory=dict[ClientId, int])
    bytes_down: Mapping[ClientId, int] = field(default_factory=dict[ClientId, int])
    seconds: float = 0.0
    values_up: Mapping[ClientId, int] = field(default_factory=dict[ClientId, int])
    """How many numbers each client sent."""
    watched: Statistic = field(default_factory=Statistic)
    """The sum of what the server noted of the updates."""
    refused: Mapping[ClientId, Refusal] = field(default_factory=dict[ClientId, Refusal])
    failed: Mapping[ClientId, str] = field(default_factory=dict[ClientId, str])
    clipped: Mapping[ClientId, str] = field(default_factory=dict[ClientId, str])
    """Whose update was made smaller before it was added, and by how much."""


class Runtime(Protocol):
    """Where the clients are: the one distributed primitive is a sum over a cohort."""

    @property
    def clients(self) -> Sequence[ClientId]: ...
    @property
    def evaluators(self) -> Sequence[ClientId]:
        """Who holds test samples."""
        ...

    def sum(self, shared: Tensors, round: Round, cohort: Sequence[ClientId]) -> Outcome: ...


@dataclass(frozen=True)
class Event:
    """One finished round; `number` counts all rounds of the run from zero.

    `test` is the outcome of the evaluation where there was one; its total holds `correct` and `total` by task where
    classes are told, and the sums that `evaluation.scores` reads.
    `figures` are the phase's numbers for the report.
    """

    number: int
    round: Round
    state: State
    outcome: Outcome
    test: Outcome | None = None
    figures: Mapping[str, Any] = field(default_factory=dict[str, Any])
