"""AFL: a frozen backbone and a head in closed form.

He et al., AFL: A Single-Round Analytic Approach for Federated Learning with Pre-trained Models, CVPR 2025.

    W* = (sum_i Y_i F_i^T)(sum_i F_i F_i^T + lam I)^-1        over all clients and tasks (see `merges.ridge`)

One round a task, nothing is trained, nothing is forgotten: the head is that of pooled data to rounding.
Travels up: the Gram of the features (d^2 / 2 numbers), class sums, counts, in two parts. All of it are sums.
Differs from the paper: sums are added and solved once, where it merges pairs of solved heads by its absolute
aggregation law, which gives the same head; the ridge stays and is chosen on held-out sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedbraid.core import Method
from fedbraid.methods.base import About, Setting
from fedbraid.methods.ridge import RidgeOptions


@dataclass(frozen=True)
class AFL(RidgeOptions):
    """The options of AFL are those of the ridge."""

    about: ClassVar[About] = About(
        name="afl",
        title="AFL",
        family="ridge",
        citation="He et al., CVPR 2025",
        travels="Gram of the features, class sums, counts",
        adapters=("none",),
    )

    def build(self, setting: Setting) -> Method:
        """`UserError` for options out of range."""
        return self.solved(setting, size=0)
