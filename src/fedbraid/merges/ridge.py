"""A linear head by ridge regression, from sums of features.

    W* = argmin |W F - Y|^2 + lam |W|^2 = P (G + lam I)^-1,      G = sum f f^T,  P = sum y f^T

with features f (a constant 1 last, so that the bias is solved too) and one-hot y: the rows of P are class sums. G and P
of all clients and tasks add up, so the head is that of pooled data, in any order and without forgetting. The squared
error of any head on held-out samples follows from their own G, P and number, so `lam` is chosen from sums as well.

He et al., AFL: A Single-Round Analytic Approach for Federated Learning with Pre-trained Models, CVPR 2025; McDonnell et
al., RanPAC, NeurIPS 2023, which chooses `lam` by the squared error on held-out samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedbraid.linalg import right_solve


@dataclass(frozen=True)
class Moments:
    """Sums over samples: `gram` (d x d), `product` (classes x d), and the number of samples."""

    gram: Tensor
    product: Tensor
    count: Tensor

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.gram + other.gram, self.product + other.product, self.count + other.count)


def ridge_head(moments: Moments, ridge: float) -> Tensor:
    """(classes, d) in fp64; `ridge` is relative to the mean diagonal entry of the Gram."""
    return right_solve(moments.product, moments.gram, torch.zeros_like(moments.product), ridge=ridge)


def squared_error(head: Tensor, moments: Moments) -> Tensor:
    """`sum |W f - y|^2` over the samples behind the moments.

    >>> one = Moments(torch.eye(1).double(), torch.ones(1, 1).double(), torch.tensor(1.0))
    >>> squared_error(torch.full((1, 1), 0.5).double(), one).item()
    0.25
    """
    return ((head @ moments.gram) * head).sum() - 2 * (head * moments.product).sum() + moments.count


def choose_ridge(fit: Moments, held_out: Moments, ridges: Sequence[float]) -> float:
    """The ridge whose head, solved on `fit`, has the smallest squared error on `held_out`.

    The middle one where nothing is held out yet, as with a handful of samples.
    """
    if not held_out.count.item():
        return ridges[len(ridges) // 2]
    errors = [squared_error(ridge_head(fit, ridge), held_out).item() for ridge in ridges]
    return ridges[errors.index(min(errors))]
