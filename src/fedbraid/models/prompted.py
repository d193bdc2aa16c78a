"""A frozen backbone under the prompts that are loaded: the plain model's feature of an image chooses among them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fedbraid.algebra import Tensors
from fedbraid.core import ImageInput
from fedbraid.errors import UserError
from fedbraid.models.backbones import Backbone
from fedbraid.models.injection import blocks_of, injected
from fedbraid.models.prompts import Prompts


class Prompted:
    """`loaded` are the prompts by name, `penalty` is what they add to the loss of the last forward pass.

    Without prompts it is the plain backbone. `UserError` where prompts are asked of a backbone that cannot take them.
    """

    def __init__(self, backbone: Backbone, prompts: Prompts | None, device: torch.device) -> None:
        self.loaded: dict[str, nn.Parameter] = {}
        self.penalty = torch.zeros((), device=device)
        self._backbone = backbone
        self._prompts = prompts
        self._device = device
        self._blocks = blocks_of(backbone.module) if prompts else []
        if prompts and not (self._blocks and isinstance(backbone.input, ImageInput)):
            raise UserError(
                f"{type(prompts).__name__} needs a vision transformer, and backbone {backbone.name!r} is none; "
                "choose for example --backbone timm:vit_base_patch16_224"
            )
        self._shapes = prompts.shapes(backbone.width, len(self._blocks)) if prompts else {}

    def fresh(self, generator: torch.Generator) -> dict[str, Tensor]:
        """First values: normal, with rows (the last dimension) of expected squared length 1, so nearly orthonormal."""
        return {name: torch.randn(*s, generator=generator) / s[-1] ** 0.5 for name, s in self._shapes.items()}

    def load(self, values: Tensors) -> None:
        """Makes these the prompts."""
        for name, value in values.items():
            shape = self._shapes.get(name.rpartition("/")[-1])
            if shape is None or value.shape[-1] != shape[-1]:
                raise UserError(
                    f"the model has no place for 'prompt/{name}' of shape {tuple(value.shape)}; "
                    "the tensors are of another method or backbone"
                )
        self.loaded = {
            name: nn.Parameter(value.to(self._device, torch.float32, copy=True), requires_grad=False)
            for name, value in values.items()
        }

    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(n, width): what the backbone pools, or the mean of the prompts' own outputs where they are tokens."""
        backbone = self._backbone
        self.penalty = torch.zeros((), device=self._device)
        if self._prompts is None or not self.loaded:
            return backbone.pool(backbone.module, inputs)
        with torch.no_grad():
            query = backbone.pool(backbone.module, inputs).float()
        with torch.autocast(self._device.type, enabled=False):
            chosen = self._prompts.choose(self.loaded, query)
        self.penalty = chosen.penalty
        with injected(self._blocks, chosen):
            if chosen.tokens is None:
                return backbone.pool(backbone.module, inputs)
            return backbone.tokens(backbone.module, inputs)[:, -chosen.tokens.shape[1] :].mean(1)
