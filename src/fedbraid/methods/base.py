"""What every method's options share, and what a method file declares.

A method file holds one frozen dataclass: its fields are the method's options, `about` says what it is, and `build`
turns options into a `core.Method`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from fedbraid.algebra import Tensors, without
from fedbraid.core import Method, Model, Round, State
from fedbraid.local.training import Training
from fedbraid.models.adapters import Adapter
from fedbraid.models.heads import fresh_head
from fedbraid.phases import Cohort, everyone


@dataclass(frozen=True)
class About:
    """A method's row in `fedbraid methods`."""

    name: str
    title: str
    family: str
    citation: str
    travels: str
    adapters: tuple[str, ...]
    modalities: tuple[str, ...] = ("image", "text")
    sums: bool = True
    """Whether everything it sends adds up, so that a secure sum can compute it."""
    centralised: bool = False
    """Whether it trains on all data in one place, as an upper bound."""


@dataclass(frozen=True)
class Setting:
    """What a method is built for: the parts of a run that are not the method's own."""

    adapter: Adapter
    training: Training
    rounds: int
    cohort: Cohort = everyone
    test_offsets: Sequence[int] | None = field(default=None)
    """The groups of classes to report accuracy by; the tasks seen so far where nothing is given."""


class Options(Protocol):
    """The options of one method."""

    about: ClassVar[About]

    def build(self, setting: Setting) -> Method:
        """The method; `UserError` where options and setting do not go together."""
        ...


def head_of(round: Round) -> str:
    """The key of the current task's head."""
    return f"head/{round.task.index}"


def grow(model: Model, state: State, round: Round) -> State:
    """The state with a fresh head for the task's classes, and with the adapter's first values before the first task."""
    head = fresh_head(len(round.task.classes), model.width, round.generator("head"))
    first = model.fresh(round.generator("adapter")) if round.task.index == 0 else {}
    return State({**state.shared, **first, head_of(round): head}, state.server)


def tuned(adapter: Adapter) -> tuple[str, ...]:
    """The kinds of values that an adapter trains."""
    return {"lora": ("lora_A", "lora_B"), "full": ("base",), "none": ()}[adapter.kind]


def all_values(shared: Tensors) -> Tensors:
    """The shared values as they are: what a method without memory trains and predicts with."""
    return without(shared)
