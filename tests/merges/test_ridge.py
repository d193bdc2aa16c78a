"""The ridge head from sums against estimators that see the samples."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from fedbraid.merges.ridge import Moments, choose_ridge, ridge_head, squared_error

CLASSES, WIDTH = 4, 6
RIDGES = (1e-6, 1e-3, 1e-1, 1.0, 1e3)


def samples(count: int = 60, *, seed: int = 0, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """(features with a constant 1 last, labels); a class shifts one feature by 1, `spread` is the noise."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=draws)
    features = spread * torch.randn(count, WIDTH, generator=draws, dtype=torch.float64)
    features[torch.arange(count), labels] += 1
    return torch.cat([features, torch.ones(count, 1, dtype=torch.float64)], dim=1), labels


def one_hot(labels: Tensor) -> Tensor:
    return torch.eye(CLASSES, dtype=torch.float64)[labels]


def moments(features: Tensor, labels: Tensor) -> Moments:
    """Sums over the samples, one at a time."""
    gram = sum(torch.outer(f, f) for f in features)
    product = sum(torch.outer(y, f) for y, f in zip(one_hot(labels), features, strict=True))
    return Moments(gram, product, torch.tensor(float(len(labels)), dtype=torch.float64))


def penalty(features: Tensor, ridge: float) -> float:
    """The absolute ridge that a relative one stands for: of the mean squared length of a feature's column."""
    return ridge * features.square().sum().item() / features.shape[1]


def least_squares(features: Tensor, labels: Tensor, lam: float) -> np.ndarray:
    """`argmin |F W^T - Y|^2 + lam |W|^2` by rows of its own for the penalty."""
    rows = np.vstack([features.numpy(), np.sqrt(lam) * np.eye(WIDTH + 1)])
    right = np.vstack([one_hot(labels).numpy(), np.zeros((WIDTH + 1, CLASSES))])
    return np.linalg.lstsq(rows, right, rcond=None)[0].T


def error(head: np.ndarray | Tensor, features: Tensor, labels: Tensor) -> float:
    return ((features @ torch.as_tensor(head).T - one_hot(labels)) ** 2).sum().item()


@pytest.mark.parametrize("count", [60, 3], ids=["many", "fewer than features"])
@pytest.mark.parametrize("ridge", RIDGES)
def test_it_is_ridge_regression_on_the_samples(ridge: float, count: int) -> None:
    features, labels = samples(count)
    lam, head = penalty(features, ridge), ridge_head(moments(features, labels), ridge)
    known = Ridge(alpha=lam, fit_intercept=False, solver="svd").fit(features.numpy(), one_hot(labels).numpy()).coef_
    assert np.allclose(head.numpy(), known, atol=1e-8)
    assert np.allclose(head.numpy(), least_squares(features, labels, lam), atol=1e-8)
    assert head.shape == (CLASSES, WIDTH + 1)


@pytest.mark.parametrize("sizes", [(60,), (20, 20, 20), (1, 57, 2), (1,) * 60], ids=len)
def test_the_sum_over_any_parts_gives_the_head_of_pooled_samples(sizes: Sequence[int]) -> None:
    features, labels = samples()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    parts = [moments(features[rows], labels[rows]) for rows in order.split(list(sizes))]
    summed = parts[0]
    for part in parts[1:]:
        summed = part + summed
    assert summed.count.item() == 60
    assert torch.allclose(ridge_head(summed, 1e-3), ridge_head(moments(features, labels), 1e-3), rtol=1e-11)


def test_the_sum_over_tasks_gives_the_head_of_all_classes() -> None:
    """A task knows the rows of its own classes alone; those of the others are zero, not unknown."""
    features, labels = samples()
    old = labels < 2
    tasks = [moments(features[rows], labels[rows]) for rows in (old, ~old)]
    assert not tasks[0].product[2:].any()
    expected = least_squares(features, labels, penalty(features, 0.1))
    assert np.allclose(ridge_head(tasks[0] + tasks[1], 0.1).numpy(), expected, atol=1e-10)


def test_the_squared_error_is_the_direct_sum() -> None:
    head = torch.randn(CLASSES, WIDTH + 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    features, labels = samples()
    assert squared_error(head, moments(features, labels)).item() == pytest.approx(error(head, features, labels))


@pytest.mark.parametrize(("spread", "count"), [(0.01, 60), (1.0, 60), (1.0, 8), (30.0, 8)])
def test_the_ridge_is_that_of_a_search_on_held_out_samples(spread: float, count: int) -> None:
    fit, held = samples(count, spread=spread), samples(40, seed=1, spread=spread)
    errors = [error(least_squares(*fit, penalty(fit[0], ridge)), *held) for ridge in RIDGES]
    assert choose_ridge(moments(*fit), moments(*held), RIDGES) == RIDGES[int(np.argmin(errors))]


def test_more_noise_asks_for_more_ridge() -> None:
    """So the cases above do not all choose one candidate."""
    chosen = [
        choose_ridge(moments(*samples(8, spread=s)), moments(*samples(40, seed=1, spread=s)), RIDGES)
        for s in (0.01, 1.0, 30.0)
    ]
    assert chosen == sorted(chosen)
    assert len(set(chosen)) > 1
