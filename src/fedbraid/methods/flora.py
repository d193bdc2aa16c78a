"""FLoRA: stack the clients' factors, merge the stack into the model, begin anew.

Wang et al., FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank Adaptations, NeurIPS 2024
(arXiv 2409.05976).

    W0 <- W0 + s sum_i p_i B_i A_i      as [p_1 B_1 ... p_K B_K] [A_1; ...; A_K], of rank K r; then A fresh and B = 0

Exact, for clients of any ranks. Travels up: both factors, the head, the sample count. Down: the whole stack.
Differs from the public code: the server draws one fresh A a round, which all clients begin from; the stack stays beside
the frozen weight in fp32, as a matrix as soon as that is smaller (`methods.residuals`); weights by sample counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedbraid.algebra import Tensors
from fedbraid.core import Method, Model, Round, State
from fedbraid.merges import Stack
from fedbraid.methods import residuals
from fedbraid.methods.base import About, Options, Setting
from fedbraid.methods.exact import with_residuals


@dataclass(frozen=True)
class FLoRA(Options):
    """FLoRA has no options of its own."""

    about: ClassVar[About] = About(
        name="flora",
        title="FLoRA",
        family="exact aggregation",
        citation="Wang et al., NeurIPS 2024, arXiv 2409.05976",
        travels="both low-rank factors, head, sample count",
        adapters=("lora",),
        modalities=("image", "text", "language"),
        numbers=True,
        mixed_ranks=True,
    )

    def build(self, setting: Setting) -> Method:
        """Rounds that end with the stack among the frozen weights and with fresh factors."""
        scale = setting.adapter.scale

        def restart(model: Model, state: State, _sums: Tensors, round: Round) -> State:
            merged = residuals.absorb(state, round, scale=scale)
            return State({**merged.shared, **model.fresh(round.generator("adapter"))}, merged.server)

        return with_residuals(self.about.name, setting, Stack(), restart)
