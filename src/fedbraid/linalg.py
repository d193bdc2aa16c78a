"""Linear algebra in fp64: solves that never return silence, triangles, low rank plus diagonal.

Letters: `G` is a symmetric positive semi-definite d x d matrix (a Gram matrix), `W` a matrix whose rows are solved for
(m x d). A triangle is the lower part of a symmetric matrix as one vector of d(d+1)/2 numbers, row by row: what travels.
"""

# torch.linalg carries no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedbraid.errors import RunError


def right_solve(product: Tensor, gram: Tensor, mean: Tensor, *, ridge: float) -> Tensor:
    """`(product + lam * mean) (gram + lam * I)^-1` with `lam = ridge * trace(gram) / d`: ridge regression to the mean.

    `gram` is d x d, or a vector of length d that stands for a diagonal matrix (its solve is a division). `product` and
    `mean` are rows of length d, or one such row. Where nobody has data (`gram` is zero) the result is `mean`, also
    direction by direction.

    Raises `RunError` for a Gram that is not finite, not positive semi-definite, or too ill-conditioned to solve.

    >>> right_solve(torch.tensor([[2.0, 3.0]]), torch.tensor([1.0, 3.0]), torch.zeros(1, 2), ridge=0.0)
    tensor([[2., 1.]], dtype=torch.float64)
    """
    product, gram, mean = product.double(), gram.double(), mean.double()
    if not torch.isfinite(gram).all() or not torch.isfinite(product).all():
        raise RunError("the Gram matrix or the product is not finite; a client sent NaN or infinity")
    trace = (gram if gram.ndim == 1 else gram.diagonal()).sum().item()
    if trace < 0:
        raise RunError(f"the Gram matrix has a negative trace ({trace:.3g}); it is no sum of squares")
    if trace == 0:
        if gram.any():
            raise RunError("the Gram matrix has a trace of zero but is not zero; it is no sum of squares")
        return mean
    lam = ridge * trace / gram.shape[0]
    right = product + lam * mean
    if gram.ndim == 1:
        if (gram < 0).any():
            raise RunError("the diagonal Gram has a negative entry; it is no sum of squares")
        return _divide(right, gram + lam, mean, floor=trace / gram.shape[0] * _TINY)
    loaded = gram.clone()
    loaded.diagonal().add_(lam)
    return _checked_cholesky_solve(loaded, right)


_TINY = 1e-300
_RESIDUAL_LIMIT = 1e-3
"""The largest relative residual of a solve that counts as an answer (RELIABILITY, promise 10)."""


def _divide(right: Tensor, diagonal: Tensor, mean: Tensor, *, floor: float) -> Tensor:
    """Column-wise division; a direction that nobody saw keeps the mean."""
    seen = diagonal > floor
    solution = torch.where(seen, right / diagonal.where(seen, torch.ones_like(diagonal)), mean)
    if not torch.isfinite(solution).all():
        raise RunError("the solve by the diagonal Gram is not finite; the product does not belong to this Gram")
    return solution


def _checked_cholesky_solve(gram: Tensor, right: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(gram)
    if info.item() != 0:
        raise RunError(
            f"the Gram matrix ({gram.shape[0]} x {gram.shape[0]}) is not positive definite at row {info.item()}; "
            "use a larger ridge or more samples"
        )
    solution = torch.cholesky_solve(torch.atleast_2d(right).T, factor).T.reshape(right.shape)
    residual = torch.linalg.norm(solution @ gram - right) / torch.linalg.norm(right).clamp_min(1e-300)
    if not torch.isfinite(solution).all() or residual.item() > _RESIDUAL_LIMIT:
        raise RunError(
            f"the solve left a relative residual of {residual.item():.3g}; the Gram matrix is too ill-conditioned, "
            "use a larger ridge"
        )
    return solution


def shrink(gram: Tensor, factor: float) -> Tensor:
    """`gram` with its off-diagonals multiplied by `factor` in [0, 1]: still positive semi-definite."""
    if gram.ndim == 1 or factor == 1:
        return gram
    shrunk = gram * factor
    shrunk.diagonal().copy_(gram.diagonal())
    return shrunk


def to_triangle(symmetric: Tensor) -> Tensor:
    """The lower triangle as a vector of d(d+1)/2 numbers.

    >>> to_triangle(torch.tensor([[1.0, 2.0], [2.0, 3.0]])).tolist()
    [1.0, 2.0, 3.0]
    """
    rows, columns = _lower(symmetric.shape[0], symmetric.device)
    return symmetric[rows, columns]


def from_triangle(triangle: Tensor) -> Tensor:
    """The symmetric d x d matrix of a triangle; `ValueError` where no d has that many numbers."""
    count = triangle.numel()
    size = (math.isqrt(8 * count + 1) - 1) // 2
    if size * (size + 1) // 2 != count:
        raise ValueError(f"{count} numbers are no triangle of a symmetric matrix")
    rows, columns = _lower(size, triangle.device)
    symmetric = triangle.new_zeros(size, size)
    symmetric[rows, columns] = triangle
    symmetric[columns, rows] = triangle
    return symmetric


def _lower(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    rows, columns = torch.tril_indices(size, size, device=device)
    return rows, columns


def low_rank_plus_diagonal(gram: Tensor, rank: int, *, iterations: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """`(vectors, values, diagonal)`: the leading eigenpairs of `gram` and the exact diagonal of the rest.

    `vectors` is d x rank with orthonormal columns, `values` of length rank, `diagonal` of length d, all >= 0, so that
    `vectors diag(values) vectors^T + diag(diagonal)` has the diagonal of `gram` and is positive semi-definite.
    The eigenpairs come from subspace iteration with Rayleigh-Ritz (start: a fixed random matrix), since a full
    eigendecomposition of a wide layer costs seconds for numbers that are thrown away.

    Raises `RunError` for a Gram that is not finite.
    """
    if not torch.isfinite(gram).all():
        raise RunError("the Gram matrix is not finite; the model or the data that it was measured on is not")
    size = gram.shape[0]
    rank = min(rank, size)
    width = min(size, 2 * rank + 8)
    gram = gram.double()
    start = torch.randn(size, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = torch.linalg.qr(gram @ start.to(gram.device)).Q
    for _ in range(iterations):
        basis = torch.linalg.qr(gram @ basis).Q
    values, rotation = torch.linalg.eigh(basis.T @ gram @ basis)
    values = values[-rank:].clamp_min(0)
    vectors = basis @ rotation[:, -rank:]
    diagonal = (gram.diagonal() - (vectors.square() * values).sum(1)).clamp_min(0)
    return vectors, values, diagonal


def leading_triplets(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """(left (m x rank), sizes (rank), right (rank x n)): the largest singular values, falling, and their vectors.

    >>> left, sizes, right = leading_triplets(torch.diag(torch.tensor([1.0, 3.0])), 1)
    >>> torch.round((left * sizes) @ right, decimals=6).abs().tolist()
    [[0.0, 0.0], [0.0, 3.0]]
    """
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank], sizes[:rank], right[:rank]


def expand(vectors: Tensor, values: Tensor, diagonal: Tensor) -> Tensor:
    """The d x d matrix of `low_rank_plus_diagonal`'s three parts."""
    return (vectors * values) @ vectors.T + torch.diag(diagonal)
