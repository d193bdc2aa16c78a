"""Sums of clipped contributions: sensitivity as a property, the clip against a loop, the noise by its moments."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedbraid.errors import UserError
from fedbraid.privacy import NoiseSource, clipped_sum, norms, release, release_diagonals, squares_by_sample

WIDTHS = {"diagonal/fc1": (5,), "diagonal/fc2": (3,), "triangle/head": (2, 3)}


def contributions(seed: int, samples: int, scale: float) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return {key: torch.randn(samples, *shape, generator=draws) * scale for key, shape in WIDTHS.items()}


def length(sums: dict[str, Tensor]) -> float:
    return math.sqrt(sum(part.square().sum().item() for part in sums.values()))


@given(st.integers(0, 10**6), st.integers(1, 12), st.floats(-3, 3), st.floats(0.01, 100))
def test_one_sample_changes_a_sum_by_at_most_the_clip(seed: int, samples: int, power: float, clip: float) -> None:
    rows = contributions(seed, samples, 10**power)
    left_out = seed % samples
    kept = torch.arange(samples) != left_out
    whole, others = (
        clipped_sum(rows, clip=clip),
        clipped_sum({key: part[kept] for key, part in rows.items()}, clip=clip),
    )
    change = length({key: whole[key] - others[key] for key in whole})
    assert change <= clip * (1 + 1e-9)
    assert change == pytest.approx(min(clip, norms(rows)[left_out].item()), rel=1e-6)


def test_the_clip_is_joint_over_layers() -> None:
    rows = contributions(0, 7, 1.0)
    expected = {key: torch.zeros(shape, dtype=torch.float64) for key, shape in WIDTHS.items()}
    for s in range(7):
        one = {key: part[s].double() for key, part in rows.items()}
        factor = min(1.0, 3.0 / length(one))
        assert norms(rows)[s].item() == pytest.approx(length(one), rel=1e-12)
        expected = {key: expected[key] + factor * one[key] for key in one}
    found = clipped_sum(rows, clip=3.0)
    for key, value in expected.items():
        assert found[key].dtype == torch.float64
        assert torch.allclose(found[key], value, rtol=1e-12)


def test_a_sample_that_is_not_finite_adds_nothing() -> None:
    rows = contributions(1, 4, 1.0)
    expected = clipped_sum({key: part[[0, 3]] for key, part in rows.items()}, clip=1.0)
    rows["diagonal/fc1"][1, 2] = torch.nan
    rows["triangle/head"][2, 0, 0] = torch.inf
    found = clipped_sum(rows, clip=1.0)
    assert all(torch.allclose(found[key], expected[key]) for key in expected)


def test_squares_of_tokens_add_up_to_the_diagonal_gram() -> None:
    draws = torch.Generator().manual_seed(0)
    x, owners = torch.randn(30, 4, generator=draws), torch.randint(5, (30,), generator=draws)
    found = squares_by_sample(x, owners, 6)
    assert torch.allclose(found.sum(0), (x.double().T @ x.double()).diagonal())
    for s in range(6):
        assert torch.allclose(found[s], x[owners == s].double().square().sum(0))


def test_noise_has_the_size_of_sigma_times_clip() -> None:
    sums = {"a": torch.full((100, 50), 7.0), "b": torch.tensor(-2.0)}
    released = release(sums, clip=3.0, sigma=2.0, source=NoiseSource(b"1"))
    noise = (released["a"] - 7.0) / 6.0
    assert abs(noise.mean().item()) < 4 / math.sqrt(5000)
    assert abs(noise.var().item() - 1) < 4 * math.sqrt(2 / 5000)
    assert released["b"].shape == ()
    again = release(dict(reversed(sums.items())), clip=3.0, sigma=2.0, source=NoiseSource(b"1"))
    assert all(torch.equal(released[key], again[key]) for key in sums)


@pytest.mark.parametrize("scale", [1e-3, 0.75, 1.0, 6e4])
def test_results_lie_on_a_grid_far_below_the_noise(scale: float) -> None:
    exact = torch.linspace(-1, 1, 1000, dtype=torch.float64) * scale
    found = release({"a": exact}, clip=scale, sigma=1.0, source=NoiseSource(b"2"))["a"]
    plain = exact + scale * NoiseSource(b"2").normal((1000,))
    grid = 2.0 ** (math.floor(math.log2(scale)) - 20)
    assert torch.equal(found / grid, (found / grid).round())
    assert 0 < (found - plain).abs().max() <= grid / 2


def test_diagonals_are_not_negative_and_otherwise_the_same() -> None:
    sums = {"diagonal/a": torch.linspace(0, 5, 200), "diagonal/b": torch.zeros(50)}
    plain = release(sums, clip=1.0, sigma=1.0, source=NoiseSource(b"3"))
    found = release_diagonals(sums, clip=1.0, sigma=1.0, source=NoiseSource(b"3"))
    assert any((part < 0).any() for part in plain.values())
    assert all(torch.equal(found[key], plain[key].clamp_min(0)) for key in sums)


def test_what_would_not_be_private_is_refused() -> None:
    rows = contributions(0, 2, 1.0)
    source = NoiseSource(b"4")
    for call in (lambda: clipped_sum(rows, clip=0.0), lambda: release(rows, clip=-1.0, sigma=1.0, source=source)):
        with pytest.raises(UserError, match="clip = "):
            call()
    with pytest.raises(UserError, match="sigma = 0"):
        release(rows, clip=1.0, sigma=0.0, source=source)
    with pytest.raises(UserError, match="'a' is not finite"):
        release({"a": torch.tensor([torch.nan])}, clip=1.0, sigma=1.0, source=source)
    with pytest.raises(UserError, match=r"numbers of rows are \{'a': 2, 'b': 3\}"):
        norms({"a": torch.zeros(2, 1), "b": torch.zeros(3, 1)})
