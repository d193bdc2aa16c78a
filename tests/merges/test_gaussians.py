"""Class Gaussians from sums against numpy on pooled features, and what is drawn from them against their moments."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from fedbraid.linalg import to_triangle
from fedbraid.merges.gaussians import draw, gaussian

WIDTH = 3


def features(count: int) -> Tensor:
    """Correlated, with a mean that is not small."""
    draws = torch.Generator().manual_seed(count)
    mixing = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.3, 0.0], [0.2, 0.0, 2.0]], dtype=torch.float64)
    return torch.randn(count, WIDTH, generator=draws, dtype=torch.float64) @ mixing + torch.tensor([4.0, -2.0, 1.0])


def sums(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    second = sum((torch.outer(row, row) for row in rows), torch.zeros(WIDTH, WIDTH, dtype=torch.float64))
    return torch.tensor(float(len(rows)), dtype=torch.float64), rows.sum(0), to_triangle(second)


@pytest.mark.parametrize("sizes", [(40,), (1, 30, 9), (0, 40), (2,)], ids=str)
def test_mean_and_covariance_are_those_of_pooled_features(sizes: Sequence[int]) -> None:
    pooled = features(sum(sizes))
    parts = [sums(rows) for rows in pooled.split(list(sizes))]
    mean, covariance = gaussian(*(sum(part[i] for part in parts) for i in range(3)))
    assert np.allclose(mean.numpy(), np.mean(pooled.numpy(), axis=0), rtol=1e-12)
    assert np.allclose(covariance.numpy(), np.cov(pooled.numpy(), rowvar=False), atol=1e-11)


def test_one_sample_has_no_spread() -> None:
    (row,) = features(1)
    mean, covariance = gaussian(*sums(row[None]))
    assert torch.equal(mean, row)
    assert covariance.abs().max() < 1e-12
    drawn = draw(mean, covariance, 5, torch.Generator().manual_seed(0))
    assert torch.allclose(drawn, row.expand(5, -1), atol=1e-5)


@pytest.mark.parametrize("kind", ["full", "singular", "zero", "negative by rounding"])
def test_what_is_drawn_has_the_moments(kind: str) -> None:
    """Within five standard errors of 20000 draws; a direction without spread stays at the mean."""
    mean, full = gaussian(*sums(features(40)))
    u = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    flat = torch.eye(WIDTH, dtype=torch.float64) - torch.outer(u, u)
    covariance = {
        "full": full,
        "singular": flat @ full @ flat,
        "zero": torch.zeros_like(full),
        "negative by rounding": flat @ full @ flat - 1e-9 * torch.outer(u, u),
    }[kind]
    count = 20_000
    drawn = draw(mean, covariance, count, torch.Generator().manual_seed(0))
    assert drawn.shape == (count, WIDTH)
    assert torch.isfinite(drawn).all()
    spread = covariance.diagonal().clamp_min(0)
    assert ((drawn.mean(0) - mean).abs() <= 5 * (spread / count).sqrt() + 1e-12).all()
    found = torch.from_numpy(np.cov(drawn.numpy(), rowvar=False))
    errors = ((covariance.square() + torch.outer(spread, spread)) / count).sqrt()  # of a Gaussian's covariance
    assert ((found - covariance).abs() <= 5 * errors + 1e-8).all()
    if kind != "full":
        assert ((drawn - mean) @ u).abs().max() < 1e-6


def test_draws_are_a_function_of_the_generator() -> None:
    mean, covariance = gaussian(*sums(features(40)))
    one, again, other = (draw(mean, covariance, 4, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
