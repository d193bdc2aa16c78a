"""The closed formulas against simulated releases, and the facts that the documentation tells."""

import math

import pytest
import torch

from fedbraid.errors import UserError
from fedbraid.privacy import (
    GramPlan,
    NoiseSource,
    relative_error,
    release,
    samples_needed,
    squares_by_sample,
    statement,
)
from fedbraid.privacy.mechanisms import clipped_sum


def signs(samples: int, width: int) -> torch.Tensor:
    """Rows of +-1: every sample adds 1 to every diagonal entry, and all eigenvalues are `samples` on average."""
    draws = torch.Generator().manual_seed(0)
    return torch.randint(2, (samples, width), generator=draws) * 2.0 - 1


@pytest.mark.parametrize("clients", [1, 4])
def test_a_diagonal_has_the_error_of_the_formula(clients: int) -> None:
    width, samples, sigma = 60, 40, 1.3
    plan = GramPlan("diagonal", width, clients * samples, sigma, clients=clients)
    rows = {"diagonal/x": squares_by_sample(signs(samples, width), torch.arange(samples), samples)}
    sums = clipped_sum(rows, clip=math.sqrt(width))
    assert torch.allclose(sums["diagonal/x"], torch.tensor(float(samples), dtype=torch.float64))  # nothing is cut off
    source = NoiseSource(b"1")
    errors = []
    for _ in range(60):
        merged = torch.zeros(width, dtype=torch.float64)
        for _ in range(clients):
            merged += release(sums, clip=math.sqrt(width), sigma=sigma, source=source)["diagonal/x"]
        errors.append((merged / (clients * samples) - 1).square().mean().item())
    assert math.sqrt(sum(errors) / 60) == pytest.approx(relative_error(plan), rel=0.05)


@pytest.mark.parametrize("width", [60, 120])
def test_a_full_gram_has_the_spectral_error_of_the_formula(width: int) -> None:
    samples, sigma = 300, 2.0
    x = signs(samples, width).double()
    rows, columns = torch.tril_indices(width, width)
    own = x[:, rows] * x[:, columns]
    gram = torch.zeros(width, width, dtype=torch.float64)
    gram[rows, columns] = clipped_sum({"triangle/x": own}, clip=width)["triangle/x"]
    gram = gram + gram.tril(-1).T
    assert torch.allclose(gram, x.T @ x)
    noise = torch.zeros(width, width, dtype=torch.float64)
    summed = {"triangle/x": torch.zeros(len(rows))}
    noise[rows, columns] = release(summed, clip=width, sigma=sigma, source=NoiseSource(b"2"))["triangle/x"]
    noise = noise + noise.tril(-1).T
    found = torch.linalg.matrix_norm(noise, 2).item() / (gram.trace().item() / width)
    assert found == pytest.approx(relative_error(GramPlan("full", width, samples, sigma)), rel=0.12)


def test_a_clip_of_ones_own_and_uneven_samples() -> None:
    even = GramPlan("diagonal", 100, 500, 1.0)
    assert relative_error(GramPlan("diagonal", 100, 500, 1.0, clip=20.0, mean=2.0)) == pytest.approx(
        relative_error(even)
    )
    assert relative_error(GramPlan("diagonal", 100, 500, 1.0, clip=30.0)) == pytest.approx(3 * relative_error(even))
    assert relative_error(GramPlan("full", 100, 500, 1.0, clip=100.0)) == pytest.approx(
        relative_error(GramPlan("full", 100, 500, 1.0))
    )


@pytest.mark.parametrize("form", ["diagonal", "full"])
def test_the_samples_needed_give_the_error(form) -> None:
    needed = samples_needed(GramPlan(form, 50, 1, 1.5), error=0.2)
    assert relative_error(GramPlan(form, 50, needed, 1.5)) <= 0.2 < relative_error(GramPlan(form, 50, needed - 1, 1.5))


def test_the_facts_of_the_documentation() -> None:
    layers = 12 * (3 * 768 + 3072)
    assert layers == 64512
    assert 1000 < samples_needed(GramPlan("diagonal", 768, 1, 3.7328)) < 1100
    assert 1.5e6 < samples_needed(GramPlan("full", 768, 1, 3.7328)) < 1.6e6
    assert 2.4e5 < samples_needed(GramPlan("full", 768, 1, 0.6)) < 2.7e5
    assert 29_000 < samples_needed(GramPlan("diagonal", layers, 1, 3.7328, clients=10)) < 31_000


def test_a_statement_tells_both_numbers() -> None:
    told = statement(GramPlan("diagonal", 768, 5000, 3.7))
    assert "width 768 on 5000 samples" in told
    assert "an error of 0.021 of an average entry; 10% would take 1026 samples" in told
    assert "more noise than signal (31 times the average eigenvalue)" in statement(GramPlan("full", 768, 5000, 3.7))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UserError, match="'half'"):
        GramPlan("half", 2, 2, 1.0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="samples = 0"):
        GramPlan("full", 2, 0, 1.0)
    with pytest.raises(UserError, match="clip = -1"):
        GramPlan("full", 2, 2, 1.0, clip=-1.0)
    with pytest.raises(UserError, match="error = 0"):
        samples_needed(GramPlan("full", 2, 2, 1.0), error=0.0)
