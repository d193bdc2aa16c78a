"""FedProx: clients stay near the model they received.

Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020.

    local loss + mu / 2 |w - w_received|^2,      then the mean of FedAvg

over everything that is trained, the task's head included.
Travels up: the tuned values and the sample count.
Differs from public code: nothing in the method; means are weighted by sample counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fedbraid.core import Method
from fedbraid.local.objectives import Quadratic
from fedbraid.methods.base import About, Options, Setting, require
from fedbraid.methods.fedavg import averaging, carried


@dataclass(frozen=True)
class FedProx(Options):
    """The options of FedProx."""

    mu: float = 0.01
    """The pull to the received model; the paper tries 0.001 to 1."""

    about: ClassVar[About] = About(
        name="fedprox",
        title="FedProx",
        family="averaging",
        citation="Li et al., MLSys 2020",
        travels="tuned values, sample count",
        adapters=("full", "lora", "none"),
        modalities=("image", "text", "language"),
        numbers=True,
    )

    def build(self, setting: Setting) -> Method:
        """FedAvg with a proximal term; `UserError` for a negative `mu`."""
        require(self.mu >= 0, "mu", self.mu, "must not be negative")
        train = replace(averaging(setting), objectives=(setting.objective, Quadratic(self.mu)))
        return carried(self.about.name, setting, {"train": train})
