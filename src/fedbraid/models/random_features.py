"""Random features: `ReLU(f P)` with a fixed Gaussian `P`, on which a linear head separates more than on `f`.

McDonnell et al., RanPAC: Random Projections and Pre-trained Models for Continual Learning, NeurIPS 2023. What is shared
of `P` is its seed and its size: everyone draws the same numbers from them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def projection(seed: int, size: int) -> Tensor:
    """The shared value `projection`: (seed, number of random features), int64."""
    return torch.tensor([seed, size], dtype=torch.int64)


def draw_projection(shared: Tensor, width: int) -> Tensor:
    """`P`, (width, size), with independent normal entries of variance 1 / width, as `projection` names it."""
    seed, size = shared.tolist()
    return torch.randn(width, size, generator=torch.Generator().manual_seed(seed)) / width**0.5


def random_features(features: Tensor, drawn: Tensor) -> Tensor:
    """`ReLU(features P)`, (n, size)."""
    return (features.to(drawn.dtype) @ drawn).relu()
