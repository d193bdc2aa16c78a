"""What the exact aggregation methods share: one adapter, whose merge leaves a residual for the frozen weights.

How the residual is known to the server and how much of it is sent are options of all of them (see `merges.fedex` and
`methods.residuals`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from fedbraid.algebra import Tensors
from fedbraid.core import Data, Method, Model, Round, State
from fedbraid.merges import FedEx, Merge, gathered
from fedbraid.methods import residuals
from fedbraid.methods.base import Options, Setting, require
from fedbraid.methods.fedavg import averaging, carried
from fedbraid.phases import Measured
from fedbraid.quantities import OWNER

Absorb = Callable[[Model, State, Tensors, Round], State]


@dataclass(frozen=True)
class ResidualOptions(Options):
    """The options of methods that average factors and add what the average loses."""

    encoding: Literal["factors", "sketch", "dense"] = "factors"
    """How the residual reaches the server: clients' factors one by one, or sums of sketches or of products."""
    sketch_width: int = 0
    """Of a sketch: (clients in a round - 1) x rank or more, or a run is refused."""
    residual_rank: int = 0
    """A bound on the rank of a round's residual; what is cut is carried on. 0 bounds nothing."""

    def restored(self, setting: Setting) -> Method:
        """The method with its residual; `UserError` for options that do not go together."""
        require(self.residual_rank >= 0, "residual_rank", self.residual_rank, "must not be negative; 0 bounds nothing")
        sketched = self.encoding == "sketch"
        require(not sketched or self.sketch_width > 0, "sketch_width", self.sketch_width, "a sketch needs a width")
        bounded = self.residual_rank > 0
        require(not bounded or self.encoding != "dense", "residual_rank", self.residual_rank, "needs factors or sketch")
        merge = FedEx(self.encoding, self.sketch_width, self.residual_rank)
        return with_residuals(self.about.name, setting, merge, bound=self.residual_rank)


def with_residuals(
    name: str, setting: Setting, merge: Merge, absorb: Absorb | None = None, *, bound: int = 0
) -> Method:
    """One adapter carried through all tasks; what the merge leaves as a residual goes to the frozen weights."""
    scale = setting.adapter.scale

    def add(_model: Model, state: State, _sums: Tensors, round: Round) -> State:
        return residuals.absorb(state, round, scale=scale, bound=bound)

    train = replace(
        averaging(setting),
        merge=merge,
        weights=lambda shared, _round: residuals.weights(shared),
        measures=signed,
        absorb=absorb or add,
    )
    return carried(name, setting, {"train": train}, weights=residuals.weights)


def _signature(_model: Model, _held: Tensors, data: Data, _round: Round) -> Tensors:
    return gathered.signature(data.client)


signed = Measured(_signature, {"client/*": OWNER})
"""Says whose the update is, where factors of different clients stay apart."""
