"""FedEx-LoRA: average the factors, and add what the average loses to the frozen weights.

Singhal et al., FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation Models, ACL 2025
(arXiv 2410.09432).

    A* = sum_i p_i A_i,   B* = sum_i p_i B_i,   W0 <- W0 + s (sum_i p_i B_i A_i - B* A*)

so that the new weight W0 + s B* A* is exactly the mean of the clients' weights (see `merges.fedex`).
Travels up: both factors, the head, the sample count; under `encoding = "sketch"` or `"dense"` a secure sum suffices.
Travels down: the new factors and the residual of the last round, as factors of rank (K - 1) r.
Differs from the public code: the residual is never a matrix unless that is smaller, and stays beside the frozen weight
in fp32; its rank may be bounded without losing anything for good (`methods.residuals`); weighted means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedbraid.core import Method
from fedbraid.methods.base import About, Options, Setting
from fedbraid.methods.exact import ResidualOptions
from fedbraid.methods.fedit import FedIT


@dataclass(frozen=True)
class FedExLoRA(ResidualOptions):
    """The options of FedEx-LoRA are those of the residual; the paper's method is the default."""

    about: ClassVar[About] = About(
        name="fedex_lora",
        title="FedEx-LoRA",
        family="exact aggregation",
        citation="Singhal et al., ACL 2025, arXiv 2410.09432",
        travels="both low-rank factors, head, sample count; with encoding = sketch or dense all of it adds up",
        adapters=("lora",),
        modalities=("image", "text", "language"),
        numbers=True,
        mixed_ranks=True,
    )

    @property
    def without_residual(self) -> Options:
        """FedIT."""
        return FedIT()

    def build(self, setting: Setting) -> Method:
        """`UserError` for options that do not go together."""
        return self.restored(setting)
