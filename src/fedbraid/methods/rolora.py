"""RoLoRA: train and average one factor at a time.

Chen et al., Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA, NeurIPS 2025 (arXiv 2502.01755).

    even rounds   B* = sum_i p_i B_i,  A as it is        odd rounds   A* = sum_i p_i A_i,  B as it is

Since clients share the other factor, the mean of the factor is the mean of the updates: exact, with half the traffic.
Travels up: one factor, the head, the sample count.
Differs from the paper: it begins with A in the first round (B = 0, so A would not move); here every task begins with B.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fedbraid.core import Method
from fedbraid.methods.base import About, Options, Setting, head_of
from fedbraid.methods.fedavg import averaging, carried
from fedbraid.methods.lorm import trained_factor


@dataclass(frozen=True)
class RoLoRA(Options):
    """RoLoRA has no options of its own."""

    about: ClassVar[About] = About(
        name="rolora",
        title="RoLoRA",
        family="exact aggregation",
        citation="Chen et al., NeurIPS 2025, arXiv 2502.01755",
        travels="one low-rank factor, head, sample count",
        adapters=("lora",),
        modalities=("image", "text", "language"),
        numbers=True,
        mixed_ranks=True,
    )

    def build(self, setting: Setting) -> Method:
        """FedAvg whose rounds alternate between the factors."""
        train = replace(averaging(setting), kinds=lambda round: (trained_factor(round), head_of(round)))
        return carried(self.about.name, setting, {"train": train})
