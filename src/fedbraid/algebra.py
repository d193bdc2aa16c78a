"""Statistics: named tensors that add.

Every client turns what it learned into a `Statistic`; statistics of disjoint data add up to the statistic of the
union; the server works on the sum alone. Addition is key-wise, a missing key counts as zero, and `ZERO` is the empty
statistic, so a lost client needs no special case.

Sums of floating-point tensors are taken in fp64 whatever dtype arrives, those of integers in int64.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from fedbraid.errors import UserError

Tensors = Mapping[str, Tensor]
"""Flat names `kind/name` to tensors: the only thing that crosses a boundary between client and server."""


class Statistic(Mapping[str, Tensor]):
    """Named tensors with key-wise addition; immutable, held in fp64 and int64.

    >>> import torch
    >>> a = Statistic({"count": torch.tensor(2), "sum": torch.tensor([1.0, 2.0])})
    >>> b = Statistic({"count": torch.tensor(3)})
    >>> (a + b)["count"].item(), (a + b)["sum"].tolist()
    (5, [1.0, 2.0])
    """

    __slots__ = ("_tensors",)

    def __init__(self, tensors: Tensors | None = None) -> None:
        self._tensors = {key: _exact(tensor) for key, tensor in (tensors or {}).items()}

    def __getitem__(self, key: str) -> Tensor:
        return self._tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __add__(self, other: Statistic) -> Statistic:
        """The statistic of the union of both sides' data; `UserError` where the shapes of a key differ."""
        result = dict(self._tensors)
        for key, tensor in other.items():
            held = result.get(key)
            result[key] = tensor if held is None else _fitting(key, held, tensor) + tensor
        return Statistic(result)

    def __repr__(self) -> str:
        return f"Statistic({', '.join(f'{key}{tuple(t.shape)}' for key, t in self._tensors.items())})"


ZERO = Statistic()
"""The statistic of no data."""


class Sum:
    """A sum as it grows, in place: it takes the memory of one statistic, and has the bits of `+`."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def add(self, statistic: Statistic) -> None:
        """`UserError` where the shapes of a key differ."""
        for key, tensor in statistic.items():
            held = self._tensors.get(key)
            if held is None:
                self._tensors[key] = tensor.clone()
            else:
                _fitting(key, held, tensor).add_(tensor)

    def statistic(self) -> Statistic:
        """What was added; nothing more is to be added then."""
        return Statistic(self._tensors)


def total(statistics: Iterable[Statistic]) -> Statistic:
    """The sum in the order given; callers that need equal bits give the order of client ids."""
    result = Sum()
    for statistic in statistics:
        result.add(statistic)
    return result.statistic()


def select(tensors: Tensors, kind: str) -> dict[str, Tensor]:
    """The tensors named `kind/...`, under their names without the kind.

    >>> import torch
    >>> sorted(select({"head/0": torch.zeros(1), "count": torch.zeros(1)}, "head"))
    ['0']
    """
    start = kind + "/"
    return {key[len(start) :]: tensor for key, tensor in tensors.items() if key.startswith(start)}


def prefix(tensors: Tensors, kind: str) -> dict[str, Tensor]:
    """The inverse of `select`: every name gets `kind/` before it."""
    return {f"{kind}/{key}": tensor for key, tensor in tensors.items()}


def without(tensors: Tensors, *kinds: str) -> dict[str, Tensor]:
    """The tensors of all other kinds, under their full names."""
    return {key: tensor for key, tensor in tensors.items() if key.split("/", 1)[0] not in kinds}


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor's numbers, of whatever type they are."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _fitting(key: str, held: Tensor, tensor: Tensor) -> Tensor:
    """What is held under the key, where the tensor can be added to it."""
    if held.shape != tensor.shape:
        raise UserError(
            f"cannot add {key!r}: one side has shape {tuple(tensor.shape)}, the sum holds {tuple(held.shape)}; clients "
            "must share one backbone, adapter and stream"
        )
    return held


def _exact(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor.long()
