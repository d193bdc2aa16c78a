"""FlexLoRA: the best low-rank approximation of the mean update.

Bai et al., FlexLoRA: Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client Resources,
NeurIPS 2024 (arXiv 2402.11505).

    B* = U S,  A* = V^T      of the r leading singular triplets of sum_i p_i s_i B_i A_i; client i takes r_i of them

Not exact: what lies beyond the rank is lost (the deviation report shows averaging's loss, not this one).
Travels up: both factors, of the client's own rank, the head, the sample count. Down: the factors.
Singular values stay with B, so that a direction in which nothing is learned yet can be.
Differs from public code: the decomposition is that of a small core (see `merges.products`); weights by sample counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fedbraid.core import Method
from fedbraid.merges import Cut
from fedbraid.methods.base import About, Options, Setting
from fedbraid.methods.exact import signed
from fedbraid.methods.fedavg import averaging, carried


@dataclass(frozen=True)
class FlexLoRA(Options):
    """FlexLoRA has no options of its own."""

    about: ClassVar[About] = About(
        name="flexlora",
        title="FlexLoRA",
        family="exact aggregation",
        citation="Bai et al., NeurIPS 2024, arXiv 2402.11505",
        travels="both low-rank factors, head, sample count",
        adapters=("lora",),
        modalities=("image", "text", "language"),
        numbers=True,
        mixed_ranks=True,
    )

    def build(self, setting: Setting) -> Method:
        """FedAvg with the decomposition in the place of the mean of the factors."""
        capacities = replace(setting.capacities, rest="dropped")
        train = replace(averaging(setting), merge=Cut(setting.adapter.rank), measures=signed, capacities=capacities)
        return carried(self.about.name, setting, {"train": train})
