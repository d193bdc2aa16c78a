"""Fed-TaLoRA: one low-rank adapter for all tasks, aggregated exactly.

Yu et al., Fed-TaLoRA: Efficient and exact federated class-incremental learning with task-agnostic low-rank adaptation
(arXiv 2505.12318).

One adapter on attention and feed-forward layers of chosen blocks is carried through all tasks; after every round the
residual weight update restores what averaging the factors loses, as in `merges.fedex`; the head grows with the tasks
and is trained on the classes of the current one.
Travels up: both factors, the current head, the sample count. Down: the new factors, the residual's factors.
The paper leaves rank, the variance of A, learning rate and selection of blocks open; it reports about 0.36 M
transmitted parameters, and better results from the first four blocks than from the last four. So `blocks` is the first
four here, unless `adapter.blocks` names others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fedbraid.core import Method
from fedbraid.methods.base import About, Options, Setting
from fedbraid.methods.exact import ResidualOptions
from fedbraid.methods.fedavg import averaging, carried
from fedbraid.models.adapters import Adapter


@dataclass(frozen=True)
class FedTaLoRA(ResidualOptions):
    """The options of Fed-TaLoRA."""

    residual: bool = True
    """Whether the residual is added: without it this is FedIT on the same layers."""
    blocks: str = "0-3"
    """The blocks to adapt where `adapter.blocks` names none; fewer where the backbone has fewer."""

    about: ClassVar[About] = About(
        name="fed_talora",
        title="Fed-TaLoRA",
        family="exact aggregation",
        citation="Yu et al., arXiv 2505.12318",
        travels="both low-rank factors, head, sample count",
        adapters=("lora",),
        modalities=("image", "text", "language"),
        numbers=True,
        mixed_ranks=True,
    )

    @property
    def without_residual(self) -> Options | None:
        """The same layers, averaged as in FedIT."""
        return FedTaLoRA(residual=False, blocks=self.blocks) if self.residual else None

    def adapter(self, given: Adapter) -> Adapter:
        """The given adapter, on the first blocks where it names none."""
        return given if given.blocks else replace(given, blocks=self.blocks)

    def build(self, setting: Setting) -> Method:
        """FedEx-LoRA's aggregation over the stream, or plain means without the residual."""
        if self.residual:
            return self.restored(setting)
        return carried(self.about.name, setting, {"train": averaging(setting)})
