"""Consolidation of low-rank updates over tasks, in factored form.

Salami et al., Closed-form merging of parameter-efficient modules for federated continual learning, ICLR 2025 (LoRM),
the merge over tasks. With the tasks' updates dW_t = B_t A_t and Grams G_t (summed over the clients),

    dW* = (sum_t dW_t G_t + lam dWbar) (sum_t G_t + lam I)^-1 = sum_t B_t A'_t,      dWbar = sum_t dW_t / T
    A'_t = (A_t G_t + (lam / T) A_t) (sum_t G_t + lam I)^-1

so dW* has the factors [B_1 ... B_T] and [A'_1; ...; A'_T]: nothing of size d_out x d_in is ever formed. Where the Grams
are diagonal, A'_t = A_t diag(c_t): one vector per task and layer is all that is new.
Differs from the public code: it forms the dense products and applies a pseudo-inverse.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedbraid.linalg import right_solve


def column_scales(diagonals: Sequence[Tensor], *, ridge: float) -> list[Tensor]:
    """`c_t` (d) of every task from the diagonals of the tasks' Grams; over the tasks they sum to one.

    >>> [c.tolist() for c in column_scales([torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0])], ridge=0.0)]
    [[0.25, 0.5], [0.75, 0.5]]
    """
    stacked = torch.stack([diagonal.double() for diagonal in diagonals])
    even = torch.full_like(stacked, 1 / len(diagonals))
    return list(right_solve(stacked, stacked.sum(0), even, ridge=ridge))


def right_factors(
    factors: Sequence[Tensor],
    products: Sequence[Tensor],
    gram: Tensor,
    *,
    ridge: float,
    weights: Tensor | None = None,
) -> list[Tensor]:
    """`A'_t` (r_t x d) of every task from `A_t`, `A_t G_t` and the sum of the Grams, (d x d) or its diagonal (d).

    `weights` are those of the tasks in the mean, each 1/T by default.
    """
    if weights is None:
        mean = torch.cat([factor.double() for factor in factors]) / len(factors)
    else:
        mean = torch.cat([factor.double() * weight for factor, weight in zip(factors, weights, strict=True)])
    solved = right_solve(torch.cat([product.double() for product in products]), gram, mean, ridge=ridge)
    ends = [factor.shape[0] for factor in factors]
    return list(torch.split(solved, ends))
