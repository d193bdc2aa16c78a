"""FisherAvg against loops over entries, and as the minimum of the quadratic that it claims to minimise."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fedbraid.algebra import Statistic, total
from fedbraid.errors import RunError
from fedbraid.merges import Fisher, Mean

COUNTS = (3.0, 5.0, 2.0)
ZEROS = {(0, 0): (0, 1, 2), (1, 2): (0, 2)}
"""Entries of which these clients have no Fisher: all of them, and two."""


def parties() -> list[tuple[Tensor, Tensor, float]]:
    """(value, its Fisher, count) of each client, (2, 4)."""
    draws = torch.Generator().manual_seed(0)
    parts = [(torch.randn(2, 4, generator=draws), torch.rand(2, 4, generator=draws) ** 4 * 9, n) for n in COUNTS]
    for place, clients in ZEROS.items():
        for client in clients:
            parts[client][1][place] = 0
    return parts


def updates() -> list[dict[str, Tensor]]:
    return [
        {"count": torch.tensor(n, dtype=torch.float64), "lora_A/x": w, "fisher/lora_A/x": f, "head/0": 2 * w}
        for w, f, n in parties()
    ]


def merged(merge: Fisher, given: list[dict[str, Tensor]] | None = None) -> dict[str, Tensor]:
    return dict(merge.solve(total(map(merge.lift, updates() if given is None else given))))


def entries(floor: float) -> list[tuple[tuple[int, int], list[float], list[float], float, float]]:
    """(place, values, Fishers, mean, lam) of every entry, as Python numbers."""
    summed = sum(f.double() for _, f, _ in parties())
    lam = floor * sum(summed.flatten().tolist()) / summed.numel()
    found = []
    for place in np.ndindex(2, 4):
        w, f = ([part[i][place].item() for part in parties()] for i in (0, 1))
        average = sum(n * value for n, value in zip(COUNTS, w, strict=True)) / sum(COUNTS)
        found.append((place, w, f, average, lam))
    return found


@pytest.mark.parametrize("floor", [0.0, 1e-6, 0.3])
def test_every_entry_is_the_published_formula(floor: float) -> None:
    found = merged(Fisher(floor))["lora_A/x"]
    for place, w, f, average, lam in entries(floor):
        weight = sum(f) + lam
        weighted = sum(a * b for a, b in zip(f, w, strict=True)) + lam * average
        assert found[place].item() == pytest.approx(weighted / weight if weight else average, rel=1e-12), place


@pytest.mark.parametrize("floor", [1e-6, 0.3])
def test_it_minimises_the_weighted_distance_to_the_clients(floor: float) -> None:
    """`argmin_w sum_i F_i (w - w_i)^2 + lam (w - wbar)^2` as stacked least squares."""
    found = merged(Fisher(floor))["lora_A/x"]
    for place, w, f, average, lam in entries(floor):
        rows = np.sqrt([*f, lam])
        expected = np.linalg.lstsq(rows[:, None], rows * np.array([*w, average]), rcond=None)[0]
        assert found[place].item() == pytest.approx(expected.item(), rel=1e-9), place


@pytest.mark.parametrize("floor", [0.0, 1e-6])
def test_where_no_answer_depends_on_an_entry_it_is_averaged(floor: float) -> None:
    merge = Fisher(floor)
    average, found = Mean().solve(total(map(Mean().lift, updates()))), merged(merge)
    assert found["lora_A/x"][0, 0].item() == pytest.approx(average["lora_A/x"][0, 0].item(), rel=1e-12)
    assert found["lora_A/x"][1, 2].item() == pytest.approx(parties()[1][0][1, 2].item(), rel=1e-3)  # the one that knows
    assert torch.equal(found["head/0"], average["head/0"])  # has no Fisher
    nothing = [{**update, "fisher/lora_A/x": torch.zeros(2, 4)} for update in updates()]
    assert torch.equal(merged(merge, nothing)["lora_A/x"], average["lora_A/x"])


def test_equal_fishers_are_an_even_mean_and_a_high_floor_is_the_weighted_one() -> None:
    same = [{**update, "fisher/lora_A/x": torch.full((2, 4), 0.7)} for update in updates()]
    even = sum(w.double() for w, _, _ in parties()) / 3
    assert torch.allclose(merged(Fisher(0.0), same)["lora_A/x"], even, rtol=1e-12)
    average = Mean().solve(total(map(Mean().lift, updates())))["lora_A/x"]
    assert torch.allclose(merged(Fisher(1e12))["lora_A/x"], average, rtol=1e-9)


def test_sums_of_samples_add() -> None:
    """Two clients with one model and a half of the samples each are one client."""
    first, *others = updates()
    half = {k: v / 2 if k in ("count", "fisher/lora_A/x") else v for k, v in first.items()}
    whole, split = merged(Fisher()), merged(Fisher(), [half, half, *others])
    assert all(torch.allclose(whole[key], split[key], rtol=1e-12) for key in whole)


def test_sums_may_be_taken_in_parts_on_the_way() -> None:
    lifted = [Statistic(dict(Fisher().lift(update))) for update in updates()]
    grouped, whole = Fisher().solve(lifted[2] + (lifted[0] + lifted[1])), merged(Fisher())
    assert all(torch.allclose(whole[key], grouped[key], rtol=1e-12) for key in whole)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_fisher_that_is_not_finite_is_named(bad: float) -> None:
    broken = updates()
    broken[1]["fisher/lora_A/x"][0, 1] = bad
    with pytest.raises(RunError, match=r"cannot merge 'lora_A/x'.*not finite"):
        merged(Fisher(), broken)
