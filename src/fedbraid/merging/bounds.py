"""Bringing a merged update to the rank that is asked for, or to the smallest that loses nothing.

Thin factors go through a QR of each and an SVD of the small core (`low_rank.split`); a dense update through an SVD
where it is small, and else through subspace iteration, whose cost grows with the rank alone.
"""

# torch.linalg carries no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedbraid.low_rank import Factors, split
from fedbraid.merging.layer import Layer
from fedbraid.merging.rules import Answer

_SMALL = 1024
"""Up to this smaller dimension an SVD of the whole matrix takes a second or less."""
_ITERATIONS = 4


@dataclass(frozen=True)
class Bounded:
    """A layer's merged update as thin factors, and the norm of what the bound on the rank has cut."""

    main: Factors
    beside: Factors | None
    cut: float


def bounded(answer: Answer, layer: Layer, rank: int | None) -> Bounded:
    """`rank` bounds the whole update, or what stands beside the means of the factors, which stay as they are.

    Without it nothing is cut, but from a dense update, which gets the rank of all adapters together.
    """
    if isinstance(answer.main, Tensor):
        main, cut = thin_of_dense(answer.main, rank or layer.rank)
        return Bounded(main, None, cut)
    if answer.beside is not None:
        beside, cut = thin(answer.beside, rank)
        return Bounded(answer.main, beside, cut)
    if answer.means and (rank is None or rank >= answer.main[1].shape[0]):
        return Bounded(answer.main, None, 0.0)
    main, cut = thin(answer.main, rank)
    return Bounded(main, None, cut)


def thin(factors: Factors, rank: int | None = None) -> tuple[Factors, float]:
    """The product by factors of its numerical rank or of `rank`, whichever is smaller, and the norm of what was cut.

    Rank one at least, so that there is something to store.
    """
    left, right = factors
    if right.shape[0] == 0:
        return (left.new_zeros(left.shape[0], 1), right.new_zeros(1, right.shape[1])), 0.0
    (left, right), _ = split(factors, right.shape[0])
    values = left.square().sum(0)  # the singular values: `split` shares them between both factors
    floor = values[0] * max(left.shape[0], right.shape[1]) * torch.finfo(torch.float64).eps
    lossless = max(int((values > floor).sum()), 1)
    kept = min(lossless, rank or lossless)
    return (left[:, :kept], right[:kept]), values[kept:lossless].norm().item()


def thin_of_dense(matrix: Tensor, rank: int) -> tuple[Factors, float]:
    """The leading `rank` singular directions of a dense matrix, and the norm of what they leave out."""
    if min(matrix.shape) <= _SMALL or 4 * rank >= min(matrix.shape):
        u, values, v = torch.linalg.svd(matrix, full_matrices=False)
        root = values[:rank].sqrt()
        return (u[:, :rank] * root, root[:, None] * v[:rank]), values[rank:].norm().item()
    basis = _leading_columns(matrix, rank + 8)
    (left, right), _ = split((basis, basis.T @ matrix), rank)
    return (left, right), (matrix - left @ right).norm().item()


def _leading_columns(matrix: Tensor, width: int) -> Tensor:
    """Orthonormal columns that nearly span the leading left singular vectors: subspace iteration from a fixed start."""
    draws = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(matrix @ torch.randn(matrix.shape[1], width, generator=draws, dtype=matrix.dtype)).Q
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    return basis
