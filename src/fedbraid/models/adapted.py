"""The model that clients train and evaluate: backbone, adapter and head, with values loaded from flat tensors.

One such model serves any number of clients: whatever a client tunes is loaded before its work and read out after it.
The backbone's own weights are touched by full fine-tuning only, and then they are values like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor, nn

from fedbraid.algebra import Tensors, prefix, select
from fedbraid.core import ImageInput, Task, TextInput
from fedbraid.errors import UserError
from fedbraid.models import heads
from fedbraid.models.adapters import Adapter
from fedbraid.models.backbones import Backbone
from fedbraid.models.loaded import check_places, copies, requiring, watched
from fedbraid.models.prompted import Prompted
from fedbraid.models.random_features import draw_projection, random_features
from fedbraid.models.tuning import tune

OUTSIDE = ("prompt", "head", "projection")
"""The kinds of values that are not an adapter's own inside the backbone."""


class AdaptedModel:
    """A backbone with an adapter injected and a head that grows. It owns the backbone's module.

    Under `precision` bf16 the backbone multiplies in bfloat16, in training, measuring and testing alike; values,
    features and all that is made of them are fp32.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter,
        *,
        device: str | torch.device = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        self._half = precision == "bf16"
        self.backbone = backbone
        self.adapter = adapter
        self.device = torch.device(device)
        self._heads: dict[int, nn.Parameter] = {}
        self._mask: Tensor | None = None
        self._projection: Tensor | None = None
        if adapter.kind == "prompt" and adapter.prompts is None:
            raise UserError("adapter.kind = 'prompt' says not which; take the adapter of a prompt method's options")
        module = backbone.module.to(self.device).requires_grad_(False)
        self._tuning = tune(module, adapter)
        self._prompted = Prompted(backbone, adapter.prompts if adapter.kind == "prompt" else None, self.device)

    @property
    def input(self) -> ImageInput | TextInput:
        return self.backbone.input

    @property
    def width(self) -> int:
        return self.backbone.width

    @property
    def layers(self) -> Mapping[str, tuple[int, int]]:
        return self._tuning.layers

    def fresh(self, generator: torch.Generator) -> dict[str, Tensor]:
        """First values of the adapter: factors, prompts, or the pre-trained weights under full fine-tuning."""
        return self._tuning.fresh(generator) | prefix(self._prompted.fresh(generator), "prompt")

    def fresh_head(self, task: Task, generator: torch.Generator) -> dict[str, Tensor]:
        """First values of the rows that the head gets for the task's classes."""
        return {f"head/{task.index}": heads.fresh_head(len(task.classes), self.width, generator)}

    def load(self, tensors: Tensors) -> None:
        """Makes these the tuned values; a low-rank term whose tensors are missing is inactive."""
        check_places(tensors, (*self._tuning.kinds, *OUTSIDE))
        self._tuning.load(tensors)
        self._prompted.load(select(tensors, "prompt"))
        self._heads = {
            task: nn.Parameter(value.to(self.device, torch.float32, copy=True), requires_grad=False)
            for task, value in heads.by_task(select(tensors, "head")).items()
        }
        drawn = tensors.get("projection")
        self._projection = None if drawn is None else draw_projection(drawn, self.width).to(self.device)

    def parameters(self, kinds: Sequence[str]) -> dict[str, nn.Parameter]:
        """The parameters of these kinds (`lora_A`, `base`, `head/3`, ...), which alone require gradients now."""
        return requiring(self._values(), kinds)

    def values(self, kinds: Sequence[str]) -> dict[str, Tensor]:
        """Copies on the CPU of the loaded values of these kinds, buffers of normalisation layers included."""
        return copies(self._values(), kinds)

    def _values(self) -> dict[str, Tensor]:
        values = self._tuning.loaded() | prefix(self._prompted.loaded, "prompt")
        return values | {f"head/{task}": value for task, value in self._heads.items()}

    def train(self, mode: bool = True) -> None:
        """Dropout on or off; normalisation statistics move only where the backbone itself is tuned.

        There is no dropout under prompts: the plain model's feature chooses them.
        """
        self.backbone.module.train(mode and self.adapter.kind != "prompt")
        if self.adapter.kind != "full":
            for module in self.backbone.module.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(n, width), or the random features of a loaded projection."""
        reads = self.backbone.input
        self._mask = inputs.get(reads.mask) if isinstance(reads, TextInput) else None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            features = self._prompted.features(inputs)
        features = features.float() if self._half else features
        return features if self._projection is None else random_features(features, self._projection)

    def logits(self, features: Tensor) -> Tensor:
        """(n, classes of all loaded heads)."""
        return heads.logits(features, heads.join(self._heads))

    def penalty(self) -> Tensor:
        """What the adapter adds to the loss of the last forward pass: zero for all but prompts."""
        return self._prompted.penalty

    def inputs_of(self, layers: Sequence[str], watch: Callable[[str, Tensor], None]) -> AbstractContextManager[None]:
        """Calls `watch(layer, x)` with each layer's input, (tokens, d_in), on every pass; padding is left out."""
        modules = {name: self.backbone.module.get_submodule(name) for name in layers}
        return watched(modules, watch, lambda: self._mask)
