"""A backbone that stays as it is: the head alone is trained, or what stands outside of the backbone's layers."""

from __future__ import annotations

import torch
from torch import Tensor

from fedbraid.algebra import Tensors


class Nothing:
    """Tunes nothing."""

    kinds: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.layers: dict[str, tuple[int, int]] = {}

    def fresh(self, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        return {}

    def load(self, tensors: Tensors) -> None:
        """There is nothing to load."""

    def loaded(self) -> dict[str, Tensor]:
        return {}
