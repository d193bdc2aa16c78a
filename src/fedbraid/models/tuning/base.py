"""What every kind of adapter offers to the model that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from fedbraid.algebra import Tensors
from fedbraid.errors import UserError
from fedbraid.models.layers import weight_of


class Tuning(Protocol):
    """The parameters of one adapter inside a backbone, as flat values of its kinds."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of values that it loads."""
        ...

    @property
    def layers(self) -> Mapping[str, tuple[int, int]]:
        """The linear layers that it tunes: name -> (d_out, d_in)."""
        ...

    def fresh(self, generator: torch.Generator) -> dict[str, Tensor]:
        """First values of what it tunes, on the CPU."""
        ...

    def load(self, tensors: Tensors) -> None:
        """Makes these the values; values of other kinds are passed over. `UserError` for what does not fit."""
        ...

    def loaded(self) -> dict[str, Tensor]:
        """The parameters and buffers behind the values, by key.

        Frozen weights that some methods measure may be among them, under kinds that are not its own.
        """
        ...


def check(tensors: Tensors, own: Tensors, kinds: tuple[str, ...]) -> None:
    """`UserError` naming a value of these kinds that is not among `own`, or has another shape there."""
    for key, value in tensors.items():
        if key.split("/", 1)[0] not in kinds:
            continue
        if key not in own:
            raise UserError(f"the model tunes no {key!r}; the tensors are of another adapter or backbone")
        if own[key].shape != value.shape:
            raise UserError(
                f"{key!r} has shape {tuple(value.shape)}, the model needs {tuple(own[key].shape)}; "
                "the tensors are of another adapter or backbone"
            )


def place(*shape: int) -> Tensor:
    """What a value of this shape is checked against, without memory of its own."""
    return torch.empty(shape, device="meta")


def held(tensors: Tensors, kinds: tuple[str, ...], device: torch.device) -> dict[str, nn.Parameter]:
    """The values of these kinds as parameters of their own in fp32, which require no gradient yet."""
    return {
        key: nn.Parameter(value.to(device, torch.float32, copy=True), requires_grad=False)
        for key, value in tensors.items()
        if key.split("/", 1)[0] in kinds
    }


def frozen_weights(layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """`weight/<layer>`, (d_out x d_in), of layers that are not quantised: to be read, or asked for a gradient."""
    weights = {f"weight/{name}": weight_of(layer) for name, layer in layers.items()}
    return {key: weight for key, weight in weights.items() if weight.is_floating_point()}
