"""Class Gaussians from sums over clients.

Luo et al., No Fear of Heterogeneity: Classifier Calibration for Federated Learning with Non-IID Data, NeurIPS 2021
(CCVR), section 4.2: mean and covariance of a class over all clients, from what each of them can add up.

    mean_c = s_c / n_c,      cov_c = (S_c - n_c mean_c mean_c^T) / (n_c - 1),      s_c = sum f, S_c = sum f f^T
"""

# torch.linalg carries no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import torch
from torch import Tensor

from fedbraid.linalg import from_triangle


def gaussian(count: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """(mean (d), covariance (d x d)) in fp64 of one class from `n`, `sum f` and the triangle of `sum f f^T`.

    A class of one sample has the covariance zero.
    """
    mean = first.double() / count
    centred = from_triangle(second.double()) - count * torch.outer(mean, mean)
    return mean, centred / (count - 1).clamp_min(1)


def draw(mean: Tensor, covariance: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """(samples, d) drawn from the Gaussian; directions that rounding made negative have no spread."""
    values, vectors = torch.linalg.eigh(covariance)
    spread = vectors * values.clamp_min(0).sqrt()
    normal = torch.randn(samples, len(mean), generator=generator, dtype=torch.float64)
    return mean + normal @ spread.T
