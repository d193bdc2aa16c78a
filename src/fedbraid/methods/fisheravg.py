"""FisherAvg: an average in which a client counts where its answers depend on the value.

Matena and Raffel, Merging Models with Fisher-Weighted Averaging, NeurIPS 2022.

    w* = sum_i F_i ∘ w_i / sum_i F_i        elementwise (see `merges.fisher`)

F_i is the diagonal Fisher of client i's trained model, with labels drawn from that model's own answers.
Travels up: the tuned values, their Fisher (as large again), the sample count.
Differs from public code: labels are drawn, one a sample, instead of summed over all classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fedbraid.algebra import Tensors
from fedbraid.core import Data, Method, Model, Round
from fedbraid.local.fisher import measure_fisher
from fedbraid.merges import Fisher
from fedbraid.methods.base import About, Options, Setting, head_of, model_values, require, tuned
from fedbraid.methods.fedavg import averaging, carried
from fedbraid.phases import Measured
from fedbraid.quantities import SQUARES


@dataclass(frozen=True)
class FisherAvg(Options):
    """The options of FisherAvg."""

    floor: float = 1e-6
    """Relative to the mean of a summed Fisher; entries far below it are averaged."""
    samples: int = 256
    """The Fisher is taken on at most so many samples a client and round."""

    about: ClassVar[About] = About(
        name="fisheravg",
        title="FisherAvg",
        family="closed form",
        citation="Matena and Raffel, NeurIPS 2022",
        travels="tuned values, their diagonal Fisher, sample count",
        adapters=("full", "lora", "none"),
    )

    def build(self, setting: Setting) -> Method:
        """`UserError` for options out of range."""
        require(self.floor > 0, "floor", self.floor, "must be above 0")
        require(self.samples >= 1, "samples", self.samples, "must be at least 1")
        kinds = tuned(setting.adapter)

        def fisher(model: Model, shared: Tensors, data: Data, round: Round) -> Tensors:
            weights, trained = model_values(shared), (*kinds, head_of(round))
            return measure_fisher(model, weights, trained, data, round, samples=self.samples, labels="model")

        train = replace(averaging(setting), merge=Fisher(self.floor), measures=Measured(fisher, {"fisher": SQUARES}))
        return carried(self.about.name, setting, {"train": train})
