"""Full fine-tuning: `base/<parameter>`, every parameter of the backbone and its persistent floating-point buffers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedbraid.algebra import Tensors, prefix, select
from fedbraid.models.layers import linear_layers, shape_of
from fedbraid.models.tuning.base import check


class Full:
    """The whole backbone is tuned; its first values are the pre-trained weights."""

    kinds: tuple[str, ...] = ("base",)

    def __init__(self, module: nn.Module) -> None:
        self.layers = {name: shape_of(layer) for name, layer in linear_layers(module).items()}
        self._values = _floating(module)
        self._pretrained = {name: value.detach().to("cpu", copy=True) for name, value in self._values.items()}

    def fresh(self, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        return prefix(self._pretrained, "base")

    def load(self, tensors: Tensors) -> None:
        check(tensors, self.loaded(), self.kinds)
        with torch.no_grad():
            for name, value in select(tensors, "base").items():
                self._values[name].copy_(value)

    def loaded(self) -> dict[str, Tensor]:
        return prefix(self._values, "base")


def _floating(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and floating-point buffers by name; a buffer such as a running mean is part of what is tuned."""
    persistent = set(module.state_dict())
    buffers = {name: b for name, b in module.named_buffers() if b.is_floating_point() and name in persistent}
    return dict(module.named_parameters()) | buffers
