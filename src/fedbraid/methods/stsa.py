"""STSA: adapt the backbone on the first task, then sum statistics over space and time.

Guan et al., STSA: Federated Class-Incremental Learning via Spatial-Temporal Statistics Aggregation, 2025
(arXiv 2506.01327).

In the first task the clients train a low-rank adapter, averaged as in FedIT; it stays as it is from then on. Every
task, the first included, adds its sums of random features of the adapted backbone, and the server solves the head of
all classes.
Travels up: in the first task as FedIT; then the Gram of the random features, class sums and counts. All of it are sums.
Differs from the paper: the low-rank adapter is merged as in FedIT; the ridge is chosen on held-out sums.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fedbraid.core import Method
from fedbraid.methods.base import About, Setting, grow
from fedbraid.methods.fedavg import averaging
from fedbraid.methods.ridge import RidgeOptions
from fedbraid.phases import first_task, serve


@dataclass(frozen=True)
class STSA(RidgeOptions):
    """The options of STSA."""

    features: int = 2000
    """Random features; 0 takes the features as they are."""

    about: ClassVar[About] = About(
        name="stsa",
        title="STSA",
        family="ridge",
        citation="Guan et al., 2025",
        travels="first task: tuned values; then Gram of the random features, class sums, counts",
        adapters=("lora", "full"),
    )

    def build(self, setting: Setting) -> Method:
        """`UserError` for options out of range."""
        adapt = {
            "start": serve(grow, tasks=first_task),
            "train": replace(averaging(setting), tasks=first_task),
        }
        return self.solved(setting, size=self.features, before=adapt)
