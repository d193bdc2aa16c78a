"""(IA)^3: a vector that scales what a layer writes, or what it reads.

    scaling/<layer>     y = l∘(W x + c)     trained: l (d_out), at first ones
                        y = W (l∘x) + c     the same for a layer whose input is scaled: l (d_in)
    weight/<layer>      W, to be read

Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning, NeurIPS 2022, which
scales keys, values, and what the last layer of a feed-forward network reads. The bias is scaled with the rest of the
output, as in peft; the models of the paper have none.

The scaling stands as a module of its own below its layer, `<layer>.scaling`: what goes into it is what it scales.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedbraid.algebra import Tensors, select
from fedbraid.models.adapters import Adapter
from fedbraid.models.layers import choose, ends_feed_forward, shape_of, weight_of
from fedbraid.models.tuning.base import check, frozen_weights


class IA3:
    """A scaling on each of the chosen linear layers."""

    kinds: tuple[str, ...] = ("scaling",)

    def __init__(self, module: nn.Module, adapter: Adapter) -> None:
        self._layers = choose(module, adapter.layers, adapter.blocks)
        self.layers = {name: shape_of(layer) for name, layer in self._layers.items()}
        self._scales: dict[str, Scale] = {}
        for name, layer in self._layers.items():
            d_out, d_in = self.layers[name]
            inner = scales_input(adapter, name, (d_out, d_in))
            scale = Scale(d_in if inner else d_out).to(weight_of(layer).device)
            layer.add_module("scaling", scale)
            if inner:
                layer.register_forward_pre_hook(scale.before)
            else:
                layer.register_forward_hook(scale.after)
            self._scales[name] = scale

    def fresh(self, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        return {f"scaling/{name}": torch.ones(len(scale.weight)) for name, scale in self._scales.items()}

    def load(self, tensors: Tensors) -> None:
        """A scaling that is missing is one."""
        check(tensors, self.loaded(), self.kinds)
        values = select(tensors, "scaling")
        with torch.no_grad():
            for name, scale in self._scales.items():
                scale.weight.copy_(values.get(name, torch.ones(())))

    def loaded(self) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {f"scaling/{name}": scale.weight for name, scale in self._scales.items()}
        return values | frozen_weights(self._layers)


class Scale(nn.Module):
    """Multiplies the last dimension, in fp32; what comes out has the type of what goes in."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).to(x.dtype)

    def before(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A hook before a layer."""
        return (self(inputs[0]), *inputs[1:])

    def after(self, _layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A hook after a layer."""
        return self(output)


def scales_input(adapter: Adapter, name: str, shape: tuple[int, int]) -> bool:
    """Whether it is the input of this layer (d_out, d_in) that is scaled."""
    return adapter.scaled == "input" or (adapter.scaled == "peft" and ends_feed_forward(name, shape))
