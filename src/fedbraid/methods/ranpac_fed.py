"""Federated RanPAC: a ridge head on random features of a frozen backbone.

McDonnell et al., RanPAC: Random Projections and Pre-trained Models for Continual Learning, NeurIPS 2023; its sums over
clients as in AFL (He et al., CVPR 2025).

    f = ReLU(x P), P Gaussian and shared by its seed;      W* = (sum Y F^T)(sum F F^T + lam I)^-1

Travels up: the Gram of the random features (size^2 / 2 numbers), class sums, counts, in two parts. All of it are sums.
Differs from RanPAC: no adaptation of the backbone on the first task (that is `stsa`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedbraid.core import Method
from fedbraid.methods.base import About, Setting
from fedbraid.methods.ridge import RidgeOptions


@dataclass(frozen=True)
class RanPACFed(RidgeOptions):
    """The options of federated RanPAC."""

    features: int = 2000
    """Random features; 10000 in RanPAC, whose Gram is 200 MB on the wire."""

    about: ClassVar[About] = About(
        name="ranpac_fed",
        title="Federated RanPAC",
        family="ridge",
        citation="McDonnell et al., NeurIPS 2023",
        travels="Gram of the random features, class sums, counts",
        adapters=("none",),
    )

    def build(self, setting: Setting) -> Method:
        """`UserError` for options out of range."""
        return self.solved(setting, size=self.features)
