"""Every merge against an independent route: stacked least squares over pooled inputs, or the dense formula."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from fedbraid.algebra import Statistic, total
from fedbraid.errors import RunError
from fedbraid.linalg import expand, low_rank_plus_diagonal, shrink, to_triangle
from fedbraid.merges import Mean, RegMean
from fedbraid.merges.lorm import column_scales, right_factors

D_OUT, D_IN, RANK = 7, 11, 3
RIDGE = 1e-6


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Party:
    """One client's layer: its inputs (d_in x tokens), its factors, its count."""

    x: Tensor
    b: Tensor
    a: Tensor
    count: float

    @property
    def gram(self) -> Tensor:
        return self.x @ self.x.T


def parties(tokens: Sequence[int] = (40, 15, 60)) -> list[Party]:
    return [
        Party(normal(D_IN, n, seed=i), normal(D_OUT, RANK, seed=i + 10), normal(RANK, D_IN, seed=i + 20), 3.0 + 2 * i)
        for i, n in enumerate(tokens)
    ]


def mean(values: Sequence[Tensor], counts: Sequence[float]) -> Tensor:
    return torch.stack([n * v for n, v in zip(counts, values, strict=True)]).sum(0) / sum(counts)


def stacked_least_squares(values: Sequence[Tensor], inputs: Sequence[Tensor], prior: Tensor, lam: float) -> Tensor:
    """`argmin sum |W X_i - W_i X_i|^2 + lam |W - prior|^2` from the pooled inputs, by numpy."""
    x = torch.cat(list(inputs), dim=1)
    y = torch.cat([v @ part for v, part in zip(values, inputs, strict=True)], dim=1)
    rows = np.vstack([x.T.numpy(), math.sqrt(lam) * np.eye(len(x))])
    right = np.vstack([y.T.numpy(), math.sqrt(lam) * prior.T.numpy()])
    return torch.from_numpy(np.linalg.lstsq(rows, right, rcond=None)[0].T)


def merged(updates: Sequence[dict[str, Tensor]], merge: Mean | RegMean | None = None) -> dict[str, Tensor]:
    merge = merge or RegMean(RIDGE)
    return dict(merge.solve(total(merge.lift(update) for update in updates)))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> bool:
    return bool((a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item()))


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# --- one layer over the clients -----------------------------------------------------------------------------------


def b_updates(clients: Sequence[Party], a: Tensor) -> list[dict[str, Tensor]]:
    """What a B round sends: the Gram of the projected inputs A x."""
    return [
        {"count": number(c.count), "lora_B/x": c.b, "triangle/lora_B/x": to_triangle((a @ c.x) @ (a @ c.x).T)}
        for c in clients
    ]


def test_the_projected_gram_gives_the_full_gram_formula() -> None:
    clients, a = parties(), normal(RANK, D_IN, seed=99)
    middle = sum(c.b @ a @ c.gram @ a.T for c in clients)
    outer = a @ sum(c.gram for c in clients) @ a.T
    lam = RIDGE * outer.trace() / RANK
    b_mean = mean([c.b for c in clients], [c.count for c in clients])
    dense = (middle + lam * b_mean) @ torch.linalg.inv(outer + lam * torch.eye(RANK, dtype=torch.float64))
    assert close(merged(b_updates(clients, a))["lora_B/x"], dense)


def test_a_b_round_is_least_squares_on_the_answers() -> None:
    clients, a = parties(), normal(RANK, D_IN, seed=99)
    projected = [a @ c.x for c in clients]
    lam = RIDGE * sum((p @ p.T).trace().item() for p in projected) / RANK
    b_mean = mean([c.b for c in clients], [c.count for c in clients])
    expected = stacked_least_squares([c.b for c in clients], projected, b_mean, lam)
    assert close(merged(b_updates(clients, a))["lora_B/x"], expected)


@pytest.mark.parametrize("tokens", [(40, 15, 60), (2, 3, 1)])
def test_an_a_round_is_least_squares_over_the_pooled_inputs(tokens: tuple[int, ...]) -> None:
    clients = parties(tokens)
    updates = [{"count": number(c.count), "lora_A/x": c.a, "triangle/lora_A/x": to_triangle(c.gram)} for c in clients]
    lam = RIDGE * sum(c.gram.trace().item() for c in clients) / D_IN
    prior = mean([c.a for c in clients], [c.count for c in clients])
    expected = stacked_least_squares([c.a for c in clients], [c.x for c in clients], prior, lam)
    assert close(merged(updates)["lora_A/x"], expected, 1e-10 if min(tokens) > D_IN else 1e-8)


def test_the_shared_b_drops_out_of_an_a_round() -> None:
    """Least squares on the answers B A x over all A: the same A* for a B of full rank (METHODS, section 2)."""
    clients, b = parties(), normal(D_OUT, RANK, seed=98)
    updates = [{"count": number(c.count), "lora_A/x": c.a, "triangle/lora_A/x": to_triangle(c.gram)} for c in clients]
    solved = merged(updates, RegMean(0.0))["lora_A/x"]
    x = torch.cat([c.x for c in clients], dim=1)
    y = torch.cat([b @ c.a @ c.x for c in clients], dim=1)
    system = torch.kron(x.T.contiguous(), b)  # vec(B A X) = (X^T kron B) vec(A), column by column
    flat = np.linalg.lstsq(system.numpy(), y.T.reshape(-1).numpy(), rcond=None)[0]
    assert close(solved, torch.from_numpy(flat).reshape(D_IN, RANK).T)


def test_a_diagonal_gram_is_the_dense_diagonal_formula() -> None:
    clients = parties()
    updates = [{"count": number(c.count), "lora_A/x": c.a, "diagonal/lora_A/x": c.x.square().sum(1)} for c in clients]
    diagonals = [torch.diag(c.gram.diagonal()) for c in clients]
    summed = sum(diagonals)
    lam = RIDGE * summed.trace() / D_IN
    prior = mean([c.a for c in clients], [c.count for c in clients])
    right = sum(c.a @ g for c, g in zip(clients, diagonals, strict=True)) + lam * prior
    dense = right @ torch.linalg.inv(summed + lam * torch.eye(D_IN, dtype=torch.float64))
    assert close(merged(updates)["lora_A/x"], dense)


def test_a_low_rank_gram_is_its_compressed_matrix_in_both_places() -> None:
    clients = parties()
    compressed = [low_rank_plus_diagonal(c.gram, 2) for c in clients]
    updates = [
        {
            "count": number(c.count),
            "lora_A/x": c.a,
            "vectors/lora_A/x": vectors,
            "values/lora_A/x": values,
            "diagonal/lora_A/x": diagonal,
        }
        for c, (vectors, values, diagonal) in zip(clients, compressed, strict=True)
    ]
    lifted = total(RegMean(RIDGE).lift(update) for update in updates)
    assert not [key for key in lifted if key.startswith(("vectors/", "values/", "diagonal/"))]
    whole = [
        vectors @ torch.diag(values) @ vectors.T + torch.diag(diagonal) for vectors, values, diagonal in compressed
    ]
    assert all(close(w, expand(*parts)) for w, parts in zip(whole, compressed, strict=True))
    summed = sum(whole)
    lam = RIDGE * summed.trace() / D_IN
    prior = mean([c.a for c in clients], [c.count for c in clients])
    right = sum(c.a @ w for c, w in zip(clients, whole, strict=True)) + lam * prior
    dense = right @ torch.linalg.inv(summed + lam * torch.eye(D_IN, dtype=torch.float64))
    assert close(merged(updates)["lora_A/x"], dense)


# --- the head -----------------------------------------------------------------------------------------------------


def heads() -> list[tuple[Tensor, Tensor, float]]:
    """(head with the bias as last column, features with a ones row, count) of each client."""
    return [
        (normal(4, D_IN + 1, seed=i + 50), torch.cat([normal(D_IN, n, seed=i) + 1, torch.ones(1, n)]), float(n))
        for i, n in enumerate((30, 50, 20))
    ]


def test_weight_and_bias_of_the_head_are_one_least_squares() -> None:
    parts = heads()
    updates = [
        {"count": number(n), "head/0": w, "triangle/head/0": to_triangle(features @ features.T)}
        for w, features, n in parts
    ]
    lam = RIDGE * sum(f.square().sum().item() for _, f, _ in parts) / (D_IN + 1)
    prior = mean([w for w, _, _ in parts], [n for _, _, n in parts])
    expected = stacked_least_squares([w for w, _, _ in parts], [f for _, f, _ in parts], prior, lam)
    assert close(merged(updates)["head/0"], expected)


def test_a_bias_apart_is_the_weighted_mean_and_leaves_the_weight_to_its_own_gram() -> None:
    parts = heads()
    updates = []
    for w, features, n in parts:
        gram = features @ features.T
        gram[-1, :-1] = gram[:-1, -1] = 0
        updates.append({"count": number(n), "head/0": w, "triangle/head/0": to_triangle(gram)})
    solved = merged(updates)["head/0"]
    counts = [n for _, _, n in parts]
    assert close(solved[:, -1], mean([w[:, -1] for w, _, _ in parts], counts))
    lam = RIDGE * sum(f.square().sum().item() for _, f, _ in parts) / (D_IN + 1)
    prior = mean([w[:, :-1] for w, _, _ in parts], counts)
    expected = stacked_least_squares([w[:, :-1] for w, _, _ in parts], [f[:-1] for _, f, _ in parts], prior, lam)
    assert close(solved[:, :-1], expected)


def test_a_shrunk_head_gram_is_the_dense_formula_with_shrunk_grams() -> None:
    parts = heads()
    grams = [shrink(f @ f.T, 0.5) for _, f, _ in parts]
    updates = [
        {"count": number(n), "head/0": w, "triangle/head/0": to_triangle(g)}
        for (w, _, n), g in zip(parts, grams, strict=True)
    ]
    summed = sum(grams)
    lam = RIDGE * summed.trace() / (D_IN + 1)
    prior = mean([w for w, _, _ in parts], [n for _, _, n in parts])
    right = sum(w @ g for (w, _, _), g in zip(parts, grams, strict=True)) + lam * prior
    assert close(merged(updates)["head/0"], right @ torch.linalg.inv(summed + lam * torch.eye(D_IN + 1)))


# --- consolidation over tasks -------------------------------------------------------------------------------------


def tasks() -> list[Party]:
    return parties((40, 25, 60, 30))


def dense_consolidation(grams: Sequence[Tensor]) -> Tensor:
    """`(sum dW_t G_t + lam dWbar) (sum G_t + lam I)^-1` with everything dense."""
    deltas = [t.b @ t.a for t in tasks()]
    summed = sum(grams)
    lam = RIDGE * summed.trace() / D_IN
    right = sum(d @ g for d, g in zip(deltas, grams, strict=True)) + lam * sum(deltas) / len(deltas)
    return right @ torch.linalg.inv(summed + lam * torch.eye(D_IN, dtype=torch.float64))


def test_consolidation_in_factors_is_the_dense_formula() -> None:
    grams = [t.gram for t in tasks()]
    factors = [t.a for t in tasks()]
    products = [a @ g for a, g in zip(factors, grams, strict=True)]
    solved = right_factors(factors, products, sum(grams), ridge=RIDGE)
    assert [s.shape for s in solved] == [a.shape for a in factors]
    assert close(sum(t.b @ s for t, s in zip(tasks(), solved, strict=True)), dense_consolidation(grams))


def test_consolidation_is_least_squares_over_the_inputs_of_all_tasks() -> None:
    grams = [t.gram for t in tasks()]
    factors = [t.a for t in tasks()]
    solved = right_factors(factors, [a @ g for a, g in zip(factors, grams, strict=True)], sum(grams), ridge=RIDGE)
    deltas = [t.b @ t.a for t in tasks()]
    lam = RIDGE * sum(grams).trace().item() / D_IN
    expected = stacked_least_squares(deltas, [t.x for t in tasks()], sum(deltas) / len(deltas), lam)
    assert close(sum(t.b @ s for t, s in zip(tasks(), solved, strict=True)), expected)


def test_consolidation_of_different_ranks() -> None:
    factors = [normal(r, D_IN, seed=r) for r in (1, 4, 2)]
    lefts = [normal(D_OUT, r, seed=r + 7) for r in (1, 4, 2)]
    grams = [t.gram for t in tasks()[:3]]
    solved = right_factors(factors, [a @ g for a, g in zip(factors, grams, strict=True)], sum(grams), ridge=0.0)
    dense = sum(b @ a @ g for b, a, g in zip(lefts, factors, grams, strict=True)) @ torch.linalg.inv(sum(grams))
    assert close(sum(b @ s for b, s in zip(lefts, solved, strict=True)), dense)


def test_column_scales_are_the_dense_formula_with_diagonal_grams() -> None:
    diagonals = [t.x.square().sum(1) for t in tasks()]
    scales = column_scales(diagonals, ridge=RIDGE)
    factored = sum(t.b @ (t.a * c) for t, c in zip(tasks(), scales, strict=True))
    assert close(factored, dense_consolidation([torch.diag(g) for g in diagonals]))
    assert close(sum(scales), torch.ones(D_IN, dtype=torch.float64))


def test_column_scales_where_nothing_was_seen() -> None:
    diagonals = [torch.tensor([0.0, 2.0, 0.0]), torch.tensor([0.0, 0.0, 5.0])]
    for ridge in (0.0, 1e-9):
        first, second = column_scales(diagonals, ridge=ridge)
        assert close(first, torch.tensor([0.5, 1.0, 0.0], dtype=torch.float64), 1e-6)
        assert close(second, torch.tensor([0.5, 0.0, 1.0], dtype=torch.float64), 1e-6)


def test_one_task_is_consolidated_to_itself() -> None:
    task = tasks()[0]
    (solved,) = right_factors([task.a], [task.a @ task.gram], task.gram, ridge=RIDGE)
    assert close(solved, task.a)
    (scale,) = column_scales([task.gram.diagonal()], ridge=RIDGE)
    assert close(scale, torch.ones(D_IN, dtype=torch.float64))


# --- invariances --------------------------------------------------------------------------------------------------


def full_update(party: Party, form: str) -> dict[str, Tensor]:
    """A value with a Gram in every form at once would not be valid: one form for the layer, a mean for the rest."""
    update = {"count": number(party.count), "lora_A/x": party.a, "other/y": party.b}
    if form == "diagonal":
        return update | {"diagonal/lora_A/x": party.x.square().sum(1)}
    if form == "triangle":
        return update | {"triangle/lora_A/x": to_triangle(party.gram)}
    vectors, values, diagonal = low_rank_plus_diagonal(party.gram, 2)
    return update | {"vectors/lora_A/x": vectors, "values/lora_A/x": values, "diagonal/lora_A/x": diagonal}


FORMS = pytest.mark.parametrize("form", ["diagonal", "triangle", "low_rank"])


@FORMS
@pytest.mark.parametrize("tokens", [30, 2])
def test_one_client_is_the_identity(form: str, tokens: int) -> None:
    party = parties((tokens,))[0]
    result = merged([full_update(party, form)])
    assert close(result["lora_A/x"], party.a, 1e-10 if tokens > D_IN else 1e-8)  # a singular Gram costs digits
    assert close(result["other/y"], party.b)


@FORMS
def test_the_order_of_clients_does_not_matter(form: str) -> None:
    updates = [full_update(party, form) for party in parties()]
    forward, backward = merged(updates), merged(updates[::-1])
    assert all(close(forward[key], backward[key], 1e-13) for key in forward)


@pytest.mark.parametrize("form", ["diagonal", "triangle"])
def test_one_client_split_in_two_changes_nothing(form: str) -> None:
    first, second, third = parties()
    cut = 13
    halves = [
        Party(second.x[:, :cut], second.b, second.a, second.count * 0.25),
        Party(second.x[:, cut:], second.b, second.a, second.count * 0.75),
    ]
    whole = merged([full_update(p, form) for p in (first, second, third)])
    split = merged([full_update(p, form) for p in (first, *halves, third)])
    assert all(close(whole[key], split[key], 1e-12) for key in whole)


@FORMS
def test_equal_clients_agree(form: str) -> None:
    a, b = parties()[0].a, parties()[0].b
    result = merged([full_update(Party(p.x, b, a, p.count), form) for p in parties()])
    assert close(result["lora_A/x"], a)
    assert close(result["other/y"], b)


@FORMS
def test_lifting_on_either_side_of_the_wire_is_the_same(form: str) -> None:
    """A statistic that was lifted and summed in parts equals the sum of all lifts."""
    updates = [full_update(party, form) for party in parties()]
    merge = RegMean(RIDGE)
    travelled = [Statistic(dict(merge.lift(update))) for update in updates]
    grouped = total([travelled[0] + travelled[1], travelled[2]])
    assert all(close(grouped_value, merged(updates)[key], 1e-12) for key, grouped_value in merge.solve(grouped).items())


def test_a_client_without_inputs_does_not_move_the_merge() -> None:
    first, second, _ = parties()
    empty = Party(torch.zeros(D_IN, 1, dtype=torch.float64), first.b, normal(RANK, D_IN, seed=5), 0.0)
    for form in ("diagonal", "triangle"):
        with_empty = merged([full_update(p, form) for p in (first, second, empty)])
        without = merged([full_update(p, form) for p in (first, second)])
        assert all(close(with_empty[key], without[key], 1e-13) for key in without)


def test_the_mean_is_weighted_by_counts() -> None:
    clients = parties()
    updates = [{"count": number(c.count), "base/w": c.b, "head/0": c.a} for c in clients]
    result = merged(updates, Mean())
    weights = np.array([c.count for c in clients])
    for key, values in (("base/w", [c.b for c in clients]), ("head/0", [c.a for c in clients])):
        expected = np.average(np.stack([v.numpy() for v in values]), axis=0, weights=weights)
        assert close(result[key], torch.from_numpy(expected), 1e-14)
    assert set(result) == {"base/w", "head/0"}


def test_the_mean_ignores_what_was_measured() -> None:
    clients = parties()
    assert set(merged([full_update(c, "low_rank") for c in clients], Mean())) == {"lora_A/x", "other/y"}


@pytest.mark.parametrize("counts", [(0.0, 0.0), (1.0, -1.0), (math.nan, 1.0)])
def test_nothing_to_average_is_an_error(counts: tuple[float, float]) -> None:
    updates = [{"count": number(n), "head/0": torch.ones(2, 2)} for n in counts]
    with pytest.raises(RunError, match="counts sum to zero"):
        merged(updates, Mean())


def test_a_gram_that_cannot_be_solved_is_named() -> None:
    update = {"count": number(1), "head/3": torch.ones(2, 3), "triangle/head/3": torch.full((6,), math.nan)}
    with pytest.raises(RunError, match=r"cannot merge 'head/3'.*not finite"):
        merged([update])
