"""What a rule sees of one layer: every adapter's update as thin factors, its weight, and Grams of the layer's inputs.

Letters: an update is `B_i A_i`, `B_i` (d_out x r_i) and `A_i` (r_i x d_in), scale inside `A_i`; an adapter that does
not tune the layer has r_i = 0. `p_i` are weights that sum to one. `G_i` is the Gram of the layer's inputs under adapter
i, of one token on average, as (d_in x d_in) or as its diagonal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedbraid.errors import UserError
from fedbraid.low_rank import Factors
from fedbraid.merges.grams import times

Updates = Mapping[str, Factors]
"""One adapter's updates by layer, its scale inside the right factors."""
Grams = Mapping[str, Tensor]
"""Grams by layer, (d_in x d_in) or (d_in)."""


@dataclass(frozen=True)
class Inputs:
    """`gram` is `sum_i p_i G_i`, `products` are the `p_i A_i G_i`: all that a closed form needs of the inputs."""

    gram: Tensor
    products: tuple[Tensor, ...]


@dataclass(frozen=True)
class Layer:
    """One layer's updates; `inputs` is None where no Gram was measured."""

    name: str
    pairs: tuple[Factors, ...]
    weights: Tensor
    inputs: Inputs | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        left, right = self.pairs[0]
        return left.shape[0], right.shape[1]

    @property
    def rank(self) -> int:
        """The rank that holds every sum of the updates: that of all together, at most the smaller dimension."""
        return min(*self.shape, max(sum(right.shape[0] for _, right in self.pairs), 1))

    @property
    def tuned_by(self) -> int:
        """The number of adapters that tune this layer."""
        return sum(right.shape[0] > 0 for _, right in self.pairs)


def normalised(weights: Sequence[float] | None, count: int) -> Tensor:
    """`count` weights that sum to one, in fp64; equal ones for None.

    >>> normalised([1, 3], 2).tolist()
    [0.25, 0.75]
    """
    given = [1.0] * count if weights is None else list(weights)
    if len(given) != count:
        raise UserError(f"there are {len(given)} weights for {count} adapters; give one for each, in their order")
    values = torch.tensor(given, dtype=torch.float64)
    if not (torch.isfinite(values) & (values > 0)).all():
        raise UserError(
            f"the weights {', '.join(f'{w:g}' for w in given)} are not all positive; leave out what has none"
        )
    values = values / values.max()  # so that the sum of large ones is finite
    return values / values.sum()


def layers_of(updates: Sequence[Updates], weights: Tensor, inputs: Mapping[str, Inputs]) -> Iterator[Layer]:
    """Every layer that any update has, in the order in which they first occur; `UserError` where shapes differ."""
    for name in dict.fromkeys(name for update in updates for name in update):
        left, right = next(update[name] for update in updates if name in update)
        none = (left.new_zeros(left.shape[0], 0), right.new_zeros(0, right.shape[1]))
        pairs = tuple(update.get(name, none) for update in updates)
        _check(name, pairs, (left.shape[0], right.shape[1]))
        yield Layer(name, pairs, weights, inputs.get(name))


def gathered(updates: Sequence[Updates], weights: Tensor, grams: Iterable[Grams]) -> dict[str, Inputs]:
    """The inputs of every layer that has Grams, from those of one adapter after the other: only sums are held."""
    sums: dict[str, Tensor] = {}
    products: dict[str, list[Tensor]] = {}
    for number, (update, measured) in enumerate(zip(updates, grams, strict=True)):
        for name, gram in measured.items():
            sums[name] = sums.get(name, 0) + weights[number] * gram.double()
            right = update[name][1] if name in update else gram.new_zeros(0, gram.shape[0])
            products.setdefault(name, []).append(weights[number] * times(right, gram.double()))
    for name, parts in products.items():
        if len(parts) != len(updates):
            raise UserError(
                f"layer {name!r} has Grams under {len(parts)} of {len(updates)} adapters; measure all or none"
            )
    return {name: Inputs(gram, tuple(products[name])) for name, gram in sums.items()}


def _check(name: str, pairs: Sequence[Factors], shape: tuple[int, int]) -> None:
    for left, right in pairs:
        fits = left.ndim == right.ndim == 2 and left.shape[1] == right.shape[0]
        if not fits or (left.shape[0], right.shape[1]) != shape:
            raise UserError(
                f"layer {name!r}: factors {tuple(left.shape)} and {tuple(right.shape)} do not fit an update of "
                f"{shape}; all adapters must be of one model, factors (d_out x r) and (r x d_in)"
            )
