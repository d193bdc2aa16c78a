"""The re-weighting of prototypes against plain loops over clients, and what follows from its formula."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedbraid.merges.prototypes import closeness_weights, reweighted

CLIENTS, CLASSES, WIDTH = 4, 3, 5
TEMPERATURE = 0.2


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clients(seed: int = 0, held: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Prototypes, means, and who has what: everybody everything where nothing is said."""
    everything = torch.ones(CLIENTS, CLASSES, dtype=torch.bool)
    shape = (CLIENTS, CLASSES, WIDTH)
    return normal(*shape, seed=seed), normal(*shape, seed=seed + 1), everything if held is None else held


def by_loops(prototypes: Tensor, means: Tensor, held: Tensor, temperature: float) -> list[list[float]]:
    """Class by class and client by client, in plain numbers."""
    merged: list[list[float]] = []
    for c in range(CLASSES):
        owners = [i for i in range(len(held)) if held[i, c]]
        if not owners:
            merged.append([0.0] * WIDTH)
            continue
        near = [1 / sum(math.dist(prototypes[i, c].tolist(), means[j, c].tolist()) for j in owners) for i in owners]
        least, most = min(near), max(near)
        places = [(n - least) / (most - least) if most > least else 0.0 for n in near]
        powers = [math.exp(place / temperature) for place in places]
        merged.append(
            [
                sum(p * prototypes[i, c, d].item() for p, i in zip(powers, owners, strict=True)) / sum(powers)
                for d in range(WIDTH)
            ]
        )
    return merged


@given(st.integers(0, 1000), st.lists(st.booleans(), min_size=CLIENTS * CLASSES, max_size=CLIENTS * CLASSES))
def test_it_is_the_formula(seed: int, owned: list[bool]) -> None:
    held = torch.tensor(owned).view(CLIENTS, CLASSES)
    merged = reweighted(*clients(seed, held), temperature=TEMPERATURE)
    expected = torch.tensor(by_loops(*clients(seed, held), TEMPERATURE), dtype=torch.float64)
    assert torch.allclose(merged, expected, rtol=1e-9, atol=1e-12)


def test_one_client_keeps_its_prototype() -> None:
    prototypes, means, held = clients()
    assert torch.equal(reweighted(prototypes[:1], means[:1], held[:1], temperature=TEMPERATURE), prototypes[0])


@pytest.mark.parametrize("at_the_mean", [False, True])
def test_identical_clients_weigh_the_same(at_the_mean: bool) -> None:
    prototypes, means, held = clients()
    own = prototypes[:1].expand_as(prototypes)
    common = own if at_the_mean else means[:1].expand_as(means)
    weights = closeness_weights(own, common, held, temperature=TEMPERATURE)
    assert torch.allclose(weights, torch.full_like(weights, 1 / CLIENTS))
    assert torch.allclose(reweighted(own, common, held, temperature=TEMPERATURE), prototypes[0])


def test_the_order_of_clients_does_not_matter() -> None:
    held = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1]]).bool()
    given = clients(3, held)
    order = torch.tensor([2, 0, 3, 1])
    permuted = [part[order] for part in given]
    assert torch.allclose(reweighted(*given, temperature=0.5), reweighted(*permuted, temperature=0.5))


def test_a_client_without_a_class_has_no_part_in_it() -> None:
    held = torch.tensor([[1, 0, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]]).bool()
    prototypes, means, _ = clients(5)
    wild = prototypes.clone(), means.clone()
    for part in wild:
        part[0, 1] = 1e6
    weights = closeness_weights(prototypes, means, held, temperature=TEMPERATURE)
    assert weights[0, 1] == 0
    assert torch.equal(weights, closeness_weights(*wild, held, temperature=TEMPERATURE))
    without = reweighted(prototypes[1:], means[1:], held[1:], temperature=TEMPERATURE)
    assert torch.allclose(reweighted(*wild, held, temperature=TEMPERATURE)[1], without[1])


def test_weights_add_up_to_one_or_to_nothing() -> None:
    held = torch.tensor([[1, 0, 0], [1, 0, 1], [1, 0, 0], [1, 0, 0]]).bool()
    weights = closeness_weights(*clients(7, held), temperature=TEMPERATURE)
    assert torch.allclose(weights.sum(0), torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))
    assert weights[1, 2] == 1
    assert not reweighted(*clients(7, held), temperature=TEMPERATURE)[1].any()


def test_the_nearest_prototype_outweighs_the_farthest_by_the_temperature() -> None:
    """Whatever the distances are, the extremes differ by exp(1 / temperature): an outlier is all but left out."""
    prototypes, means, held = clients(9)
    prototypes[2] = means.mean(0)
    prototypes[0] += 100
    weights = closeness_weights(prototypes, means, held, temperature=TEMPERATURE)
    assert (weights[2] == weights.amax(0)).all()
    assert (weights[0] == weights.amin(0)).all()
    assert torch.allclose(weights[2] / weights[0], torch.full((CLASSES,), math.exp(1 / TEMPERATURE)).double())
    even = closeness_weights(prototypes, means, held, temperature=1e9)
    assert torch.allclose(even, torch.full_like(even, 1 / CLIENTS))
