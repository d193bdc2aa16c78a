"""What is tuned: a backbone with an adapter, as methods see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core.rounds import Task
from fedbraid.core.samples import ImageInput, PromptInput, TextInput


class Model(Protocol):
    """A backbone with an adapter and a head, whose tuned values are those loaded last."""

    @property
    def device(self) -> torch.device: ...
    @property
    def input(self) -> ImageInput | TextInput | PromptInput:
        """What the backbone reads."""
        ...

    @property
    def width(self) -> int:
        """The number of features that the head reads."""
        ...

    @property
    def layers(self) -> Mapping[str, tuple[int, int]]:
        """The linear layers that the adapter tunes: name -> (d_out, d_in)."""
        ...

    def fresh(self, generator: torch.Generator) -> Tensors:
        """First values of what the adapter tunes."""
        ...

    def fresh_head(self, task: Task, generator: torch.Generator) -> Tensors:
        """First values of what predicts the task's classes, `head/<task>`; nothing for a model that writes text."""
        ...

    def load(self, tensors: Tensors) -> None:
        """Makes these the tuned values; a low-rank term that is missing is inactive."""
        ...

    def parameters(self, kinds: Sequence[str]) -> Mapping[str, torch.nn.Parameter]:
        """The parameters behind the loaded values of these kinds, which alone require gradients now."""
        ...

    def values(self, kinds: Sequence[str]) -> dict[str, Tensor]:
        """Copies on the CPU of the loaded values of these kinds."""
        ...

    def train(self, mode: bool = True) -> None:
        """Dropout on or off."""
        ...

    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(n, width), what the head reads."""
        ...

    def logits(self, features: Tensor) -> Tensor:
        """(n, classes of all loaded heads)."""
        ...

    def penalty(self) -> Tensor:
        """What the adapter adds to the loss of the last forward pass: zero for all but prompts."""
        ...

    def inputs_of(self, layers: Sequence[str], watch: Callable[[str, Tensor], None]) -> AbstractContextManager[None]:
        """Calls `watch(layer, x)` with each layer's input, (tokens, d_in), on every forward pass inside."""
        ...
