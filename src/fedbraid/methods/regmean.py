"""RegMean: merge every linear layer by matching its clients' responses.

Jin et al., Dataless Knowledge Fusion by Merging Weights of Language Models, ICLR 2023.

    W* = (sum_i W_i G_i)(sum_i G_i)^-1        per linear layer, the mean of everything else (see `merges.regmean`)

G_i is the Gram of the layer's inputs on client i's trained model, off-diagonals multiplied by `off_diagonal`. With a
low-rank adapter the factors are the layers: A has the layer's inputs, B has the outputs of the client's own A.
Travels up: the tuned values, the Grams, the sample count: d^2 / 2 numbers a layer, unless `gram` says otherwise.
Differs from the public code: a ridge to the mean; triangles; the head is merged with its bias, and with
`bias = "solved"` every layer of a fully tuned backbone is, by the Gram of [x, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import Data, Method, Model, Round
from fedbraid.errors import UserError
from fedbraid.local.measures import FEATURES, GramOf, Passes, measure_grams
from fedbraid.merges import RegMean as Merge
from fedbraid.methods.base import About, Options, Setting, head_of, model_values, require
from fedbraid.methods.fedavg import averaging, carried
from fedbraid.phases import Measured
from fedbraid.quantities import GRAMS


@dataclass(frozen=True)
class RegMean(Options):
    """The options of RegMean."""

    gram: Literal["full", "diagonal", "low_rank"] = "full"
    gram_rank: int = 8
    """The eigenpairs kept under `low_rank`."""
    off_diagonal: float = 0.9
    """What the off-diagonals of a Gram are multiplied by; 0.9 is the paper's default."""
    ridge: float = 1e-6
    """The ridge to the mean, relative to the mean diagonal entry of a Gram."""
    bias: Literal["averaged", "solved"] = "averaged"
    """Under full fine-tuning: whether a layer's bias is averaged (published), or solved with its weight."""

    about: ClassVar[About] = About(
        name="regmean",
        title="RegMean",
        family="closed form",
        citation="Jin et al., ICLR 2023",
        travels="tuned values, Gram of every linear layer, sample count",
        adapters=("full", "lora", "none"),
    )

    def build(self, setting: Setting) -> Method:
        """`UserError` for options out of range."""
        require(0 <= self.off_diagonal <= 1, "off_diagonal", self.off_diagonal, "must lie between 0 and 1")
        require(self.gram_rank >= 1, "gram_rank", self.gram_rank, "must be at least 1")
        require(self.ridge >= 0, "ridge", self.ridge, "must not be negative")
        kind = setting.adapter.kind

        def grams(model: Model, shared: Tensors, data: Data, round: Round) -> Tensors:
            wanted = [GramOf(head_of(round), FEATURES, off_diagonal=self.off_diagonal, ones="joined")]
            for layer, shape in model.layers.items():
                if kind == "full":
                    _require_plain(shared[f"base/{layer}.weight"], layer, shape)
                    solved = self.bias == "solved" and f"base/{layer}.bias" in shared
                    name, ones = (f"base/{layer}", "joined") if solved else (f"base/{layer}.weight", "no")
                    wanted.append(replace(self._gram(name, layer), ones=ones))
                else:
                    first = shared[f"lora_A/{layer}"]
                    wanted.append(self._gram(f"lora_A/{layer}", layer))
                    wanted.append(GramOf(f"lora_B/{layer}", layer, projection=first, off_diagonal=self.off_diagonal))
            return measure_grams(model, model_values(shared), data, round, wanted=wanted, passes=Passes(1))

        train = replace(averaging(setting), merge=Merge(self.ridge), measures=Measured(grams, GRAMS))
        return carried(self.about.name, setting, {"train": train})

    def _gram(self, key: str, layer: str) -> GramOf:
        return GramOf(key, layer, self.gram, rank=self.gram_rank, off_diagonal=self.off_diagonal)


def _require_plain(weight: Tensor, layer: str, shape: tuple[int, int]) -> None:
    """`UserError` for a backbone whose weights are stored transposed; square layers alone would not show it."""
    if tuple(weight.shape) != shape:
        raise UserError(
            f"method 'regmean' cannot merge {layer!r}, whose weight is stored transposed (GPT-2's Conv1D), under full "
            "fine-tuning; use adapter.kind = 'lora'"
        )
