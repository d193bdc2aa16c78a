"""FedIT: average the factors of a low-rank adapter.

Zhang et al., Towards Building the Federated GPT: Federated Instruction Tuning, ICASSP 2024.

    A* = sum_i p_i A_i,   B* = sum_i p_i B_i      (B* A* is not the mean of the updates B_i A_i)

Travels up: both factors, the head, the sample count. One adapter is carried through all tasks.
Differs from public code: weighted means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedbraid.core import Method
from fedbraid.methods.base import About, Options, Setting
from fedbraid.methods.fedavg import averaging, carried


@dataclass(frozen=True)
class FedIT(Options):
    """FedIT has no options of its own."""

    about: ClassVar[About] = About(
        name="fedit",
        title="FedIT",
        family="averaging",
        citation="Zhang et al., ICASSP 2024",
        travels="both low-rank factors, head, sample count",
        adapters=("lora",),
        modalities=("image", "text", "language"),
        numbers=True,
        mixed_ranks=True,
    )

    def build(self, setting: Setting) -> Method:
        """FedAvg over a low-rank adapter."""
        return carried(self.about.name, setting, {"train": averaging(setting)})
