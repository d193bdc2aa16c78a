"""EWC: what mattered to earlier tasks is held in place.

Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017; the running Fisher is that of
Schwarz et al., Progress & Compress, ICML 2018 (online EWC).

    local loss + strength / 2 sum_k F_k (w_k - w*_k)^2        in every round after the first task
    at the end of a task: F <- gamma F + sum_i F_i / sum_i n_i,  w* <- w

F_i sums squared gradients of the log-likelihood over client i's samples, one sample at a time. The heads of earlier
tasks are not trained any more, so F and w* are those of the adapter.
Travels up: the tuned values and the sample count; at the end of a task the Fisher sums. Travels down: F with the model.
Differs from public code: the last round of a task is trained like the others; the Fisher is a sum over samples, not
over batches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from fedbraid.algebra import Statistic, Tensors, prefix, select
from fedbraid.core import Data, Method, Model, Round, State
from fedbraid.local.fisher import measure_fisher
from fedbraid.local.objectives import Quadratic
from fedbraid.methods.base import About, Options, Setting, among, model_values, require, tuned
from fedbraid.methods.fedavg import averaging, carried
from fedbraid.phases import Measure, Measured
from fedbraid.quantities import SAMPLES, SQUARES


@dataclass(frozen=True)
class EWC(Options):
    """The options of EWC."""

    strength: float = 100.0
    """Lambda of the quadratic penalty."""
    gamma: float = 1.0
    """What remains of the Fisher of earlier tasks."""
    samples: int = 256
    """The Fisher is taken on at most so many samples a client and task."""

    about: ClassVar[About] = About(
        name="ewc",
        title="EWC",
        family="regularisation",
        citation="Kirkpatrick et al., PNAS 2017",
        travels="tuned values, sample count; at task end the diagonal Fisher",
        adapters=("full", "lora"),
    )

    def build(self, setting: Setting) -> Method:
        """`UserError` for options out of range."""
        require(self.strength >= 0, "strength", self.strength, "must not be negative")
        require(0 <= self.gamma <= 1, "gamma", self.gamma, "must lie between 0 and 1")
        require(self.samples >= 1, "samples", self.samples, "must be at least 1")
        kinds = tuned(setting.adapter)
        objectives = (setting.objective, Quadratic(self.strength, anchors="anchor", weights="fisher"))

        def fisher(model: Model, shared: Tensors, data: Data, round: Round) -> Tensors:
            weights = model_values(shared)
            sums = measure_fisher(model, weights, kinds, data, round, samples=self.samples, labels="data")
            return {"count": torch.tensor(float(len(data)), dtype=torch.float64), **sums}

        def anchor(_model: Model, state: State, total: Statistic, _round: Round) -> State:
            shared = dict(state.shared)
            for key, value in select(total, "fisher").items():
                before = shared.get(f"fisher/{key}", torch.zeros(())).double()
                shared[f"fisher/{key}"] = (self.gamma * before + value / total["count"]).float()
            return State(shared | prefix(among(state.shared, kinds), "anchor"), state.server)

        phases = {
            "train": replace(averaging(setting), objectives=objectives),
            "fisher": Measure(
                Measured(fisher, {"count": SAMPLES, "fisher": SQUARES}), anchor, cohort=setting.cohort, evaluated=False
            ),
        }
        return carried(self.about.name, setting, phases)
