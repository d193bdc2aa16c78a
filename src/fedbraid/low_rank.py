"""Products of thin factors, computed without ever forming them.

Letters: `B` (d_out x r) and `A` (r x d_in) are the factors of an update `B A`; `p` are weights that sum to one. A pair
`(left, right)` stands for the matrix `left @ right`.

Averaging factors loses a covariance: with means `Bbar`, `Abar`,

    sum_i p_i B_i A_i - Bbar Abar = sum_i p_i (B_i - Bbar)(A_i - Abar)

whose rank is at most (K - 1) r. `residual` gives exact factors of it by orthonormal contrasts of the clients: where the
rows of `C`, ((K - 1) x K), are orthonormal and orthogonal to `sqrt(p)`, `C^T C = I - sqrt(p) sqrt(p)^T`.
"""

# torch.linalg carries no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]
"""(left, right), whose product is meant."""


def contrasts(weights: Tensor) -> Tensor:
    """((K - 1) x K) orthonormal rows, orthogonal to the square roots of the K weights, which sum to one.

    They are the rows but the first of the Householder reflection that takes `sqrt(p)` to a multiple of the first axis.

    >>> even = torch.tensor([0.5, 0.5])
    >>> round((contrasts(even) @ even.double().sqrt()).item(), 12)
    0.0
    """
    axis = weights.double().sqrt()
    axis = axis / axis.norm()
    axis[0] += 1  # all weights are >= 0, so nothing cancels here
    rows = torch.eye(len(axis), dtype=torch.float64, device=axis.device)[1:]
    return rows - torch.outer(axis[1:], axis) * (2 / axis.square().sum())


def residual(lefts: Sequence[Tensor], rights: Sequence[Tensor], weights: Tensor) -> Factors:
    """Exact factors, of rank (K - 1) r, of `sum p_i B_i A_i - (sum p_i B_i)(sum p_i A_i)`, in fp64.

    >>> ones, none = torch.ones(1, 1), torch.zeros(1, 1)
    >>> left, right = residual([ones, none], [ones, none], torch.tensor([0.5, 0.5]))
    >>> round((left @ right).item(), 12)
    0.25
    """
    mixing = contrasts(weights) * weights.double().sqrt()
    left = torch.einsum("kj,jor->okr", mixing, torch.stack([left.double() for left in lefts]))
    right = torch.einsum("kj,jri->kri", mixing, torch.stack([right.double() for right in rights]))
    return left.flatten(1), right.flatten(0, 1)


def stacked(pairs: Sequence[Factors], weights: Sequence[float | Tensor] | None = None) -> Factors:
    """`sum_i w_i left_i right_i` as one pair: factors side by side, the weights with the left ones, in fp64."""
    scales = [1.0] * len(pairs) if weights is None else weights
    left = torch.cat([left.double() * scale for (left, _), scale in zip(pairs, scales, strict=True)], dim=1)
    return left, torch.cat([right.double() for _, right in pairs])


def norm(factors: Factors) -> float:
    """The Frobenius norm of the product: exact to rounding also where the parts nearly cancel, by two thin QR."""
    left, right = factors
    if left.shape[1] == 0:
        return 0.0
    return (_triangle(left.double()) @ _triangle(right.double().T).T).norm().item()


def split(factors: Factors, rank: int, *, even: bool = True) -> tuple[Factors, Factors]:
    """(best, rest): the best approximation of the product of at most this rank, and exactly what it leaves out.

    The first columns are the most important ones. Singular values are shared evenly between both factors, or stay with
    the left one, so that the rows of the right one are orthonormal, also where a singular value is zero. Eckart
    and Young, 1936; thin QR of both factors and an SVD of the small core.
    """
    left, right = (factor.double() for factor in factors)
    outer, inner = torch.linalg.qr(left), torch.linalg.qr(right.T)
    u, values, v = torch.linalg.svd(outer.R @ inner.R.T, full_matrices=False)
    own, other = (values.sqrt(), values.sqrt()) if even else (values, torch.ones_like(values))
    columns, rows = outer.Q @ (u * own), (other[:, None] * v) @ inner.Q.T
    return (columns[:, :rank], rows[:rank]), (columns[:, rank:], rows[rank:])


def sketch(factors: Factors, right_probe: Tensor, left_probe: Tensor) -> Factors:
    """`(M Omega, Psi M)` of the product M: linear in M, so that sketches of many clients add up to that of the sum.

    `right_probe` is Omega (d_in x q), `left_probe` Psi (q' x d_out).
    """
    left, right = (factor.double() for factor in factors)
    return left @ (right @ right_probe.double()), (left_probe.double() @ left) @ right


def unsketch(columns: Tensor, rows: Tensor, left_probe: Tensor, *, rank: int, floor: float = 0.0) -> Factors:
    """The matrix `M Omega (Psi M Omega)^+ Psi M` behind a sketch: M itself where the probes are as wide as its rank.

    Nakatsukasa, Fast and stable randomized low-rank matrix approximation, 2020 (generalised Nystroem): the small core
    is inverted on its numerical rank, which is `rank` at most; singular values up to `floor` are rounding.
    """
    columns, rows = columns.double(), rows.double()
    u, values, v = torch.linalg.svd(left_probe.double() @ columns, full_matrices=False)
    kept = min(rank, int((values > floor).sum()))
    return columns @ (v[:kept].T / values[:kept]), u[:, :kept].T @ rows


def probes(shape: tuple[int, int], width: int, generator: torch.Generator) -> Factors:
    """(Omega, Psi) for a matrix of this shape: normal, (d_in x width) and (1.5 width x d_out), in fp64."""
    d_out, d_in = shape
    omega = torch.randn(d_in, width, generator=generator, dtype=torch.float64)
    return omega, torch.randn(width + (width + 1) // 2, d_out, generator=generator, dtype=torch.float64)


def _triangle(thin: Tensor) -> Tensor:
    return torch.linalg.qr(thin, mode="r").R
