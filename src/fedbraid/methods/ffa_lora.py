"""FFA-LoRA: freeze A, average B.

Sun et al., Improving LoRA in Privacy-preserving Federated Learning, ICLR 2024.

    B* = sum_i p_i B_i        with one A that all clients share, so that  B* A = sum_i p_i B_i A  is exact

Travels up: B, the head, the sample count: half of FedIT.
Differs from public code: A is drawn once by the server and never trained; means are weighted by sample counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fedbraid.core import Method
from fedbraid.methods.base import About, Options, Setting, head_of
from fedbraid.methods.fedavg import averaging, carried


@dataclass(frozen=True)
class FFALoRA(Options):
    """FFA-LoRA has no options of its own."""

    about: ClassVar[About] = About(
        name="ffa_lora",
        title="FFA-LoRA",
        family="averaging",
        citation="Sun et al., ICLR 2024",
        travels="low-rank factor B, head, sample count",
        adapters=("lora",),
        modalities=("image", "text", "language"),
        numbers=True,
        mixed_ranks=True,
    )

    def build(self, setting: Setting) -> Method:
        """FedAvg in which the factor A stays as the server drew it."""
        train = replace(averaging(setting), kinds=lambda round: ("lora_B", head_of(round)))
        return carried(self.about.name, setting, {"train": train})
