"""Prompts: learned vectors that steer a frozen vision transformer, chosen for every image by what the plain model sees.

A prompt method says which values it tunes and what it makes of them for a batch; how they enter the transformer is the
concern of `models.injection`, and what is loaded that of `models.prompted`. Values are named `prompt/<name>`, or
`prompt/<task>/<name>` where every task has its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from fedbraid.algebra import Tensors
from fedbraid.errors import UserError


@dataclass(frozen=True)
class Chosen:
    """What enters the transformer for a batch of n images.

    `tokens`, (n, count, width), join the sequence, and features are read from them; `prefixes`, by block
    (n, 2, length, width), join the keys and the values of the block's attention. `penalty` is added to the loss.
    """

    penalty: Tensor
    tokens: Tensor | None = None
    prefixes: Mapping[int, Tensor] = field(default_factory=dict[int, Tensor])


class Prompts(Protocol):
    """The prompts of one method."""

    def shapes(self, width: int, depth: int) -> Mapping[str, tuple[int, ...]]:
        """The values to draw for a transformer of `depth` blocks, by name."""
        ...

    def choose(self, values: Tensors, query: Tensor) -> Chosen:
        """What enters for images whose feature of the plain model is `query`, (n, width)."""
        ...


def by_task(values: Tensors, name: str) -> list[Tensor]:
    """The values `<task>/<name>` in the order of the tasks.

    >>> import torch
    >>> [value.item() for value in by_task({"10/key": torch.tensor(2), "9/key": torch.tensor(1)}, "key")]
    [1, 2]
    """
    found = {int(key.removesuffix(f"/{name}")): value for key, value in values.items() if key.endswith(f"/{name}")}
    return [found[task] for task in sorted(found)]


def existing(blocks: Sequence[int], depth: int, option: str) -> tuple[int, ...]:
    """Those of the ascending blocks that a transformer of this depth has; `UserError` where it has none of them.

    >>> existing((2, 3, 4), 4, "blocks")
    (2, 3)
    """
    found = tuple(block for block in blocks if block < depth)
    if not found:
        raise UserError(f"method.{option} = {tuple(blocks)}: the backbone has only the blocks 0 to {depth - 1}")
    return found


def by_block(blocks: Sequence[int], prefixes: Tensor) -> dict[int, Tensor]:
    """Prefixes (n, existing blocks, 2, length, width) by block number."""
    return dict(zip(blocks, prefixes.unbind(1), strict=False))  # what does not exist is at the end of `blocks`


def likeness(query: Tensor, keys: Tensor) -> Tensor:
    """(n, keys): the cosine of every query (n, width) and every key (keys, width)."""
    return F.normalize(query, dim=1) @ F.normalize(keys, dim=1).T


def rows(picked: Tensor, values: Tensor) -> Tensor:
    """`values[picked]`, as a product with zeros and ones.

    The gradient of an indexed read is summed in the order of the threads, that of a product is not.
    """
    hot = (picked.unsqueeze(-1) == torch.arange(len(values), device=picked.device)).to(values.dtype)
    return (hot @ values.flatten(1)).unflatten(-1, values.shape[1:])
