"""FedEx-LoRA: average the factors, and add what the average loses to the frozen weights.

Singhal et al., FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation Models, ACL 2025
(arXiv 2410.09432).

    A* = sum_i p_i A_i,   B* = sum_i p_i B_i,   W0 <- W0 + s (sum_i p_i B_i A_i - B* A*)

so that the new weight W0 + s B* A* is exactly the mean of the clients' weights (see `merges.fedex`).
Travels up: both factors, the head, the sample count; under `encoding = "sketch"` or `"dense"` a secure sum suffices.
Travels down: the new factors and the residual of the last round, as factors of rank (K - 1) r.
Differs from the public code: the residual is never a matrix unless that is smaller, and stays beside the frozen weight
in fp32; its rank may be bounded without losing anything for good (`methods.residuals`); weighted means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from fedbraid.algebra import Tensors
from fedbraid.core import Data, Method, Model, Round, State
from fedbraid.merges import FedEx, Merge, gathered
from fedbraid.methods import residuals
from fedbraid.methods.base import About, Options, Setting, require
from fedbraid.methods.fedavg import averaging, carried
from fedbraid.methods.fedit import FedIT

Absorb = Callable[[Model, State, Tensors, Round], State]


@dataclass(frozen=True)
class FedExLoRA(Options):
    """The options of FedEx-LoRA; the paper's method is the default."""

    encoding: Literal["factors", "sketch", "dense"] = "factors"
    """How the residual reaches the server: clients' factors one by one, or sums of sketches or of products."""
    sketch_width: int = 0
    """Of a sketch: (clients in a round - 1) x rank or more, or a run is refused."""
    residual_rank: int = 0
    """A bound on the rank of a round's residual; what is cut is carried on. 0 bounds nothing."""

    about: ClassVar[About] = About(
        name="fedex_lora",
        title="FedEx-LoRA",
        family="exact aggregation",
        citation="Singhal et al., ACL 2025, arXiv 2410.09432",
        travels="both low-rank factors, head, sample count; with encoding = sketch or dense all of it adds up",
        adapters=("lora",),
        modalities=("image", "text", "language"),
        numbers=True,
        sums=False,
        mixed_ranks=True,
        exact=True,
    )

    @property
    def exact(self) -> bool:
        """Round by round only without a bound: what a bound cuts comes in later rounds."""
        return self.residual_rank == 0

    @property
    def own_merge(self) -> bool:
        """With a bound on the residual."""
        return self.residual_rank > 0

    @property
    def without_residual(self) -> Options:
        """FedIT."""
        return FedIT()

    def build(self, setting: Setting) -> Method:
        """`UserError` for options that do not go together."""
        require(self.residual_rank >= 0, "residual_rank", self.residual_rank, "must not be negative; 0 bounds nothing")
        sketched = self.encoding == "sketch"
        require(not sketched or self.sketch_width > 0, "sketch_width", self.sketch_width, "a sketch needs a width")
        bounded = self.residual_rank > 0
        require(not bounded or self.encoding != "dense", "residual_rank", self.residual_rank, "needs factors or sketch")
        return exact(self.about.name, setting, FedEx(self.encoding, self.sketch_width), bound=self.residual_rank)


def exact(name: str, setting: Setting, merge: Merge, absorb: Absorb | None = None, *, bound: int = 0) -> Method:
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


def signed(_model: Model, _held: Tensors, data: Data, _round: Round) -> Tensors:
    """Says whose the update is, where factors of different clients stay apart."""
    return gathered.signature(data.client)
