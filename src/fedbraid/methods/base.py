"""What every method's options share, and what a method file declares.

A method file holds one frozen dataclass that is an `Options`: its fields are the method's options, `about` says what it
is, and `build` turns options into a `core.Method`. What many methods do alike stands here as small functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import Method, Model, Round, State
from fedbraid.errors import UserError
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
    """The kinds of adapter it works with, its default first."""
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

    def adapter(self, given: Adapter) -> Adapter:
        """The adapter that the method tunes, where the setting asks for `given`: the same for most methods."""
        return given

    def build(self, setting: Setting) -> Method:
        """The method; `UserError` where options and setting do not go together."""
        ...


def make(options: Options, setting: Setting) -> Method:
    """The method of these options; `UserError` where it does not work with the setting's adapter."""
    about, kind = options.about, setting.adapter.kind
    if kind not in about.adapters:
        raise UserError(
            f"method {about.name!r} does not work with adapter.kind = {kind!r}; it takes {' or '.join(about.adapters)}"
        )
    return options.build(setting)


def require(fits: bool, name: str, value: object, demand: str) -> None:
    """`UserError` for an option out of range: `require(keep > 0, "keep", keep, "must be above 0")`."""
    if not fits:
        raise UserError(f"method.{name} = {value}: {demand}")


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
    return {"lora": ("lora_A", "lora_B"), "full": ("base",), "none": (), "prompt": ("prompt",)}[adapter.kind]


def among(tensors: Tensors, kinds: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of these kinds, under their full names."""
    return {key: value for key, value in tensors.items() if key.split("/", 1)[0] in kinds}


LOADED = ("lora_A", "lora_B", "base", "prompt", "head", "projection")
"""The kinds of values that make up a model without memory."""


def model_values(shared: Tensors) -> Tensors:
    """What the model loads of the shared values: everything but what a method remembers beside them."""
    return among(shared, LOADED)
