"""Tensors as words: fixed point in Z_2^64, where addition is exact and wraps.

A floating-point number x becomes `round(x 2^f)`, to the nearest, with f = 24 unless a layout says otherwise; an integer
stays what it is. A word is that number modulo 2^64, so words of n clients add up to the word of the sum as long as
`n |x| 2^f < 2^63`; what is larger, or not finite, is refused before it is masked. The decoded sum is fp64 or int64, as
every statistic, and differs from the exact sum by at most `n 2^-(f+1)` an entry; above 2^(53-f) fp64 itself is coarser,
and its rounding comes on top.

All clients share one `Layout`: which entries stand where, with how many bits after the point. Its digest is bound into
every key and signature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.errors import RunError, UserError
from fedbraid.secure.ciphers import digest

FRACTION = 24
"""Bits after the point, where a layout says nothing else."""

Words = npt.NDArray[np.uint64]
"""One flat array of numbers modulo 2^64."""

_INTEGERS = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


@dataclass(frozen=True)
class Entry:
    """One tensor's place: its name, its shape, the dtype of its sum, `float64` or `int64`, and bits after the point."""

    key: str
    shape: tuple[int, ...]
    dtype: str
    fraction: int = FRACTION

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The entries of an update in the order of their names; plain data.

    >>> layout = Layout.of({"sum": torch.zeros(2, 3), "count": torch.tensor(1)})
    >>> [entry.key for entry in layout.entries], layout.size
    (['count', 'sum'], 7)
    """

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        keys = [entry.key for entry in self.entries]
        if keys != sorted(set(keys)):
            raise UserError("a layout names every tensor once, in sorted order; make it with Layout.of(tensors)")
        odd = [entry.key for entry in self.entries if entry.dtype not in ("float64", "int64")]
        if odd:
            raise UserError(f"the dtype of a sum is float64 or int64, not that of {odd[0]!r}; use Layout.of(tensors)")
        short = [entry.key for entry in self.entries if min(entry.shape, default=0) < 0]
        if short:
            raise UserError(f"the shape of {short[0]!r} has a dimension below 0; use Layout.of(tensors)")
        coarse = [entry for entry in self.entries if not 0 <= entry.fraction < 63]
        if coarse:
            raise UserError(f"a word has 0 to 62 bits after the point, not {coarse[0].fraction} ({coarse[0].key!r})")

    @staticmethod
    def of(tensors: Tensors) -> Layout:
        """The layout of updates like this one."""
        return Layout(tuple(Entry(key, tuple(tensors[key].shape), _kind(key, tensors[key])) for key in sorted(tensors)))

    @property
    def size(self) -> int:
        """The number of words."""
        return sum(entry.size for entry in self.entries)

    @cached_property
    def digest(self) -> bytes:
        entries = (digest(entry.key, entry.dtype, entry.fraction, *entry.shape) for entry in self.entries)
        return digest("layout", *entries)


def encode(layout: Layout, tensors: Tensors, *, clients: int) -> Words:
    """The words of one client's update, of which the sum over this many clients cannot overflow.

    `UserError` for tensors that are not those of the layout, `RunError` for a value that does not fit.

    >>> update = {"mean": torch.tensor([0.5, -0.5])}
    >>> encode(Layout.of(update), update, clients=3).astype("int64").tolist()
    [8388608, -8388608]
    """
    found = sorted(tensors)
    wanted = [entry.key for entry in layout.entries]
    if found != wanted:
        odd = sorted({*found} ^ {*wanted})
        raise UserError(f"the update and the layout differ in {odd}; all clients must send the same tensors")
    parts = [_fixed(entry, tensors[entry.key].detach().cpu(), clients).flatten().numpy() for entry in layout.entries]
    return np.concatenate([np.empty(0, np.int64), *parts]).view(np.uint64)


def decode(layout: Layout, words: Words) -> dict[str, Tensor]:
    """The tensors of a sum of words, in fp64 and int64."""
    if len(words) != layout.size:
        raise UserError(f"{len(words)} words for a layout of {layout.size}; encode and decode with one layout")
    numbers = torch.from_numpy(words.view(np.int64).copy())
    parts = numbers.split([entry.size for entry in layout.entries])
    tensors: dict[str, Tensor] = {}
    for entry, part in zip(layout.entries, parts, strict=True):
        values = part.double() / 2**entry.fraction if entry.dtype == "float64" else part
        tensors[entry.key] = values.reshape(entry.shape)
    return tensors


def _fixed(entry: Entry, tensor: Tensor, clients: int) -> Tensor:
    """The fixed-point numbers in int64."""
    if tuple(tensor.shape) != entry.shape or _kind(entry.key, tensor) != entry.dtype:
        raise UserError(
            f"{entry.key!r} is {tensor.dtype} {tuple(tensor.shape)}, the layout holds {entry.dtype} {entry.shape}; "
            f"all clients must send the same tensors"
        )
    limit = (2**63 - 1) // clients
    if entry.dtype == "int64":
        numbers = tensor.long()
        _refuse(entry, tensor, (numbers > limit) | (numbers < -limit), limit, clients)
        return numbers
    scaled = (tensor.double() * 2**entry.fraction).round()
    below = float(limit) if float(limit) <= limit else math.nextafter(float(limit), 0)
    _refuse(entry, tensor, ~(scaled.abs() <= below), below / 2**entry.fraction, clients)
    return scaled.long()


def _refuse(entry: Entry, tensor: Tensor, bad: Tensor, limit: float, clients: int) -> None:
    """`RunError` naming the first bad value."""
    if not bad.any():
        return
    place: Sequence[Any] = bad.nonzero()[0].tolist()
    value = tensor[tuple(place)].item()
    raise RunError(
        f"{entry.key!r}{place or ''} is {value}, which does not fit a masked sum of {clients} clients: values must be "
        f"finite and at most {limit:.6g} in magnitude; look why it is so large, or sum without masks"
    )


def _kind(key: str, tensor: Tensor) -> str:
    if tensor.is_floating_point():
        return "float64"
    if tensor.dtype in _INTEGERS:
        return "int64"
    raise UserError(f"{key!r} is {tensor.dtype}, of which there is no masked sum; send floating point or integers")
