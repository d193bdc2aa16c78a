"""Clipped gradients against an explicit loop, Poisson samples by their law, and a training that learns under noise."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedbraid.errors import UserError
from fedbraid.privacy import (
    NoiseSource,
    clipped_gradient,
    clipped_gradient_at_once,
    poisson_sample,
    private_gradient,
)

CLIP = 0.8


@pytest.fixture
def case() -> tuple[dict[str, nn.Parameter], Tensor, Tensor]:
    """A low-rank layer and a head with one value that the loss does not depend on, 11 samples, 3 classes."""
    draws = torch.Generator().manual_seed(0)
    shapes = {"lora_A/fc": (2, 6), "lora_B/fc": (4, 2), "head/0": (3, 5), "unused": (2,)}
    parameters = {key: nn.Parameter(torch.randn(shape, generator=draws)) for key, shape in shapes.items()}
    return parameters, torch.randn(11, 6, generator=draws), torch.randint(3, (11,), generator=draws)


def loss(parameters, sample) -> Tensor:
    hidden = torch.tanh(parameters["lora_B/fc"] @ (parameters["lora_A/fc"] @ sample["x"]))
    head = parameters["head/0"]
    return F.cross_entropy((head[:, :-1] @ hidden + head[:, -1])[None], sample["y"][None])


def by_hand(parameters, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], int]:
    """The sum by `backward` on one sample after another."""
    sums = {key: torch.zeros(value.shape, dtype=torch.float64) for key, value in parameters.items()}
    shortened = 0
    for s in range(len(x)):
        for value in parameters.values():
            value.grad = None
        loss(parameters, {"x": x[s], "y": y[s]}).backward()
        found = {key: value.grad.double() for key, value in parameters.items() if value.grad is not None}
        norm = math.sqrt(sum(part.square().sum().item() for part in found.values()))
        shortened += norm > CLIP
        for key, part in found.items():
            sums[key] += part * min(1.0, CLIP / norm)
    return sums, shortened


def test_both_ways_are_the_explicit_loop(case) -> None:
    parameters, x, y = case
    expected, shortened = by_hand(parameters, x, y)
    assert 0 < shortened < 11
    one = clipped_gradient(lambda s: loss(parameters, {"x": x[s], "y": y[s]}), parameters, range(11), clip=CLIP)
    many = clipped_gradient_at_once(loss, parameters, {"x": x, "y": y}, clip=CLIP, chunk=4)
    for found in (one, many):
        assert (found.samples, found.clipped, found.left_out) == (11, shortened, 0)
        for key, value in expected.items():
            assert found.sums[key].dtype == torch.float64
            assert torch.allclose(found.sums[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("left_out", range(11))
def test_one_sample_changes_the_sum_by_at_most_the_clip(left_out: int, case) -> None:
    parameters, x, y = case
    kept = torch.arange(11) != left_out
    whole = clipped_gradient_at_once(loss, parameters, {"x": x, "y": y}, clip=CLIP)
    rest = clipped_gradient_at_once(loss, parameters, {"x": x[kept], "y": y[kept]}, clip=CLIP)
    change = sum((whole.sums[key] - rest.sums[key]).square().sum() for key in parameters)
    assert change.sqrt() <= CLIP * (1 + 1e-5)


def test_a_gradient_that_is_not_finite_adds_nothing(case) -> None:
    parameters, x, y = case
    expected, _ = by_hand(parameters, x[1:], y[1:])
    x[0, 0] = torch.inf
    one = clipped_gradient(lambda s: loss(parameters, {"x": x[s], "y": y[s]}), parameters, range(11), clip=CLIP)
    many = clipped_gradient_at_once(loss, parameters, {"x": x, "y": y}, clip=CLIP)
    for found in (one, many):
        assert found.left_out == 1
        assert all(torch.allclose(found.sums[key], value, rtol=1e-4, atol=1e-6) for key, value in expected.items())


def test_an_empty_sample_is_noise_alone(case) -> None:
    parameters, x, y = case
    empty = clipped_gradient(lambda s: loss(parameters, {"x": x[s], "y": y[s]}), parameters, [], clip=CLIP)
    at_once = clipped_gradient_at_once(loss, parameters, {"x": x[:0], "y": y[:0]}, clip=CLIP)
    for found in (empty, at_once):
        assert found.samples == 0
        noisy = private_gradient(found, clip=CLIP, sigma=2.0, expected=4.0, source=NoiseSource(b"1"))
        assert noisy.keys() == parameters.keys()
        numbers = torch.cat([part.flatten() for part in noisy.values()])
        assert 0.25 < numbers.std().item() < 0.55  # 2 * 0.8 / 4


def test_poisson_samples_are_drawn_one_by_one() -> None:
    source = NoiseSource(b"2")
    rounds = torch.zeros(400, 50)
    for row in rounds:
        row[poisson_sample(50, 0.3, source)] = 1
    assert abs(rounds.mean().item() - 0.3) < 4 * math.sqrt(0.21 / rounds.numel())
    sizes = rounds.sum(1)
    assert abs(sizes.var().item() / (50 * 0.21) - 1) < 0.3  # a fixed size would have variance 0
    assert abs(torch.corrcoef(rounds.T[:2])[0, 1].item()) < 0.2
    assert torch.equal(poisson_sample(4, 1.0, source), torch.arange(4))
    assert poisson_sample(0, 0.5, source).shape == (0,)
    with pytest.raises(UserError, match="rate = 0"):
        poisson_sample(4, 0.0, source)


def test_training_with_noise_learns() -> None:
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(400, 4, generator=draws)
    y = (x[:, 0] + x[:, 1] > 0).float()
    parameters = {"head/0": torch.zeros(4)}
    source = NoiseSource(b"3")

    def logistic(values, sample) -> Tensor:
        return F.binary_cross_entropy_with_logits(values["head/0"] @ sample["x"], sample["y"])

    for _ in range(60):
        drawn = poisson_sample(400, 0.1, source)
        found = clipped_gradient_at_once(logistic, parameters, {"x": x[drawn], "y": y[drawn]}, clip=1.0, chunk=64)
        step = private_gradient(found, clip=1.0, sigma=1.0, expected=40.0, source=source)
        parameters = {"head/0": parameters["head/0"] - step["head/0"].float()}
    right = ((x @ parameters["head/0"] > 0) == (y > 0)).float().mean().item()
    assert right > 0.93
