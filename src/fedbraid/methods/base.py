"""What every method's options share, and what a method file declares.

A method file holds one frozen dataclass that is an `Options`: its fields are the method's options, `about` says what it
is, and `build` turns options into a `core.Method`. What many methods do alike stands here as small functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import ClientId, Method, Model, Round, State
from fedbraid.errors import UserError
from fedbraid.local.capacities import Capacities
from fedbraid.local.exams import right_answers
from fedbraid.local.objectives import Objective, cross_entropy
from fedbraid.local.training import Training
from fedbraid.models.adapters import Adapter
from fedbraid.phases import Cohort, Exam, Measure, evaluate, everyone


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
    numbers: bool = False
    """Whether clients may learn numbers in place of classes."""
    mixed_ranks: bool = False
    """Whether its clients may train low-rank factors of different ranks and scales."""
    centralised: bool = False
    """Whether it trains on all data in one place, as an upper bound."""


@dataclass(frozen=True)
class Setting:
    """What a method is built for: the parts of a run that are not the method's own."""

    adapter: Adapter
    training: Training
    rounds: int
    cohort: Cohort = everyone
    ranks: Mapping[ClientId, int] = field(default_factory=dict[ClientId, int])
    """The rank of clients that train a smaller low-rank adapter than the others."""
    alphas: Mapping[ClientId, float] = field(default_factory=dict[ClientId, float])
    """LoRA's alpha of clients that have their own; their scale is alpha / rank."""
    test_offsets: Sequence[int] | None = field(default=None)
    """The groups of classes to report accuracy by; the tasks seen so far where nothing is given."""
    objective: Objective = cross_entropy
    """What clients train on."""
    exam: Exam = right_answers
    """What is counted on test samples."""

    @property
    def capacities(self) -> Capacities:
        """Which part of a low-rank adapter each client trains, and at which scale."""
        own = {client: self.adapter.at_rank(rank).scale for client, rank in self.ranks.items()}
        own |= {client: alpha / self.ranks.get(client, self.adapter.rank) for client, alpha in self.alphas.items()}
        return Capacities(self.adapter.scale, self.ranks, own)


class Options(Protocol):
    """The options of one method."""

    about: ClassVar[About]

    @property
    def without_residual(self) -> Options | None:
        """The same method without the residual that makes up for averaged factors; None where there is none."""
        return None

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
    if (setting.ranks or setting.alphas) and not about.mixed_ranks:
        raise UserError(
            f"method {about.name!r} needs clients of one rank and scale; remove adapter.ranks and adapter.alphas, or "
            "choose a method of the exact aggregation family"
        )
    return options.build(setting)


def require(fits: bool, name: str, value: object, demand: str) -> None:
    """`UserError` for an option out of range: `require(keep > 0, "keep", keep, "must be above 0")`."""
    if not fits:
        raise UserError(f"method.{name} = {value}: {demand}")


def examined(setting: Setting, weights: Callable[[Tensors], Tensors]) -> Measure:
    """The setting's exam, of the model with these weights."""
    return evaluate(weights, setting.test_offsets, setting.exam)


def head_of(round: Round) -> str:
    """The key of the current task's head."""
    return f"head/{round.task.index}"


def grow(model: Model, state: State, round: Round) -> State:
    """The state with a fresh head for the task's classes, and with the adapter's first values before the first task."""
    head = model.fresh_head(round.task, round.generator("head"))
    first = model.fresh(round.generator("adapter")) if round.task.index == 0 else {}
    return State({**state.shared, **first, **head}, state.server)


TUNED = {
    "lora": ("lora_A", "lora_B"),
    "vera": ("vera_b", "vera_d"),
    "lora_xs": ("core_R",),
    "ia3": ("scaling",),
    "full": ("base",),
    "none": (),
    "prompt": ("prompt",),
}


def tuned(adapter: Adapter) -> tuple[str, ...]:
    """The kinds of values that an adapter trains."""
    return TUNED[adapter.kind]


def among(tensors: Tensors, kinds: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of these kinds, under their full names."""
    return {key: value for key, value in tensors.items() if key.split("/", 1)[0] in kinds}


FROZEN = ("vera", "core_A", "core_B")
"""The kinds of values that an adapter has from the server and nobody trains."""
LOADED = (*(kind for kinds in TUNED.values() for kind in kinds), *FROZEN, "head", "projection")
"""The kinds of values that make up a model without memory."""


def model_values(shared: Tensors) -> Tensors:
    """What the model loads of the shared values: everything but what a method remembers beside them."""
    return among(shared, LOADED)
