"""Every rule against its definition written out densely, by `fedbraid.merge` on tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import fedbraid
from fedbraid.errors import RunError, UserError
from fedbraid.merging import RULES
from fedbraid.merging.bounds import thin_of_dense

WEIGHTS = [0.2, 0.3, 0.5]


def drawn(ranks=(2, 3, 4), d_out: int = 7, d_in: int = 9, seed: int = 0) -> list[dict[str, tuple[Tensor, Tensor]]]:
    draws = torch.Generator().manual_seed(seed)
    return [
        {"fc": (torch.randn(d_out, rank, generator=draws), torch.randn(rank, d_in, generator=draws))} for rank in ranks
    ]


def dense(update: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
    left, right = update["fc"]
    return left.double() @ right.double()


def product(merged: fedbraid.merging.Merged) -> Tensor:
    left, right = merged.updates["fc"]
    return left @ right


def grams(updates: list, seed: int = 5) -> list[dict[str, Tensor]]:
    draws = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(30, 9, generator=draws, dtype=torch.float64) for _ in updates]
    return [{"fc": x.T @ x / 30} for x in inputs]


@pytest.mark.parametrize("rule", ["average", "fedex"])
def test_the_mean_of_the_updates(rule):
    updates = drawn()
    merged = fedbraid.merge(rule, updates, weights=[2, 3, 5])
    expected = sum(w * dense(u) for w, u in zip(WEIGHTS, updates, strict=True))
    assert torch.allclose(product(merged), expected, rtol=1e-12, atol=1e-12)
    assert merged.adapter["fc"][1].shape[0] == {"average": 7, "fedex": 4}[rule]


def test_factors_are_what_averaging_pads_to():
    updates = drawn((2, 3))
    left = torch.cat([updates[0]["fc"][0], torch.zeros(7, 1)], 1) / 2 + updates[1]["fc"][0] / 2
    right = torch.cat([updates[0]["fc"][1], torch.zeros(1, 9)]) / 2 + updates[1]["fc"][1] / 2
    merged = fedbraid.merge("factors", updates)
    assert torch.allclose(product(merged).float(), left @ right, atol=1e-5)
    assert merged.adapter["fc"][1].shape[0] == 3


@pytest.mark.parametrize("keep", [1.0, 0.4, 0.05])
def test_ties_entry_by_entry(keep):
    updates = drawn()
    trimmed = []
    for update in updates:
        values = dense(update).flatten().tolist()
        largest = sorted(range(len(values)), key=lambda i: -abs(values[i]))[: max(round(keep * len(values)), 1)]
        trimmed.append([v if i in largest else 0.0 for i, v in enumerate(values)])
    expected = []
    for entries in zip(*trimmed, strict=True):
        sign = np.sign(sum(w * e for w, e in zip(WEIGHTS, entries, strict=True)))
        agreeing = [(w, e) for w, e in zip(WEIGHTS, entries, strict=True) if e and np.sign(e) == sign]
        expected.append(sum(w * e for w, e in agreeing) / sum(w for w, _ in agreeing) if agreeing else 0.0)
    merged = fedbraid.merge("ties", updates, weights=WEIGHTS, keep=keep, rank=7)
    assert np.allclose(product(merged).flatten().tolist(), expected, atol=1e-12)


def test_dare_keeps_a_share_scales_it_up_and_is_right_on_average():
    (update,) = drawn((3,), 60, 50)
    thinned = product(fedbraid.merge("dare", [update], keep=0.25, rank=50))
    kept = thinned.abs() > 1e-9
    assert kept.double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.allclose(thinned[kept], dense(update)[kept] / 0.25, rtol=1e-9)
    again, other = (product(fedbraid.merge("dare", [update], keep=0.25, rank=50, seed=s)) for s in (0, 1))
    assert torch.equal(thinned, again)
    assert not torch.allclose(thinned, other)
    both = product(fedbraid.merge("dare", [update, update], keep=0.25, rank=50))
    assert 0.4 < (both.abs() > 1e-9).double().mean().item() < 0.48  # masks of two adapters are independent: 0.4375


def test_dare_that_keeps_all_is_the_mean():
    updates = drawn()
    expected = product(fedbraid.merge("average", updates, weights=WEIGHTS))
    assert torch.allclose(product(fedbraid.merge("dare", updates, weights=WEIGHTS, keep=1, rank=7)), expected)


@pytest.mark.parametrize("rule", ["regmean", "lorm"])
def test_closed_forms_are_stacked_least_squares(rule):
    """|W X_i - W_i X_i|^2 over all adapters and a ridge to the mean, by numpy's least squares on square roots."""
    updates, ridge = drawn(), 1e-3
    measured = grams(updates)
    used = [m["fc"] if rule == "regmean" else m["fc"].diagonal().diag() for m in measured]
    total = sum(w * g for w, g in zip(WEIGHTS, used, strict=True))
    lam = ridge * total.trace() / 9
    roots = [torch.linalg.cholesky(w * g) for w, g in zip(WEIGHTS, used, strict=True)]
    mean = sum(w * dense(u) for w, u in zip(WEIGHTS, updates, strict=True))
    inputs = torch.cat([*roots, lam.sqrt() * torch.eye(9, dtype=torch.float64)], 1)
    answers = torch.cat([*(dense(u) @ r for u, r in zip(updates, roots, strict=True)), lam.sqrt() * mean], 1)
    expected = np.linalg.lstsq(inputs.T.numpy(), answers.T.numpy(), rcond=None)[0].T
    merged = fedbraid.merge(rule, updates, weights=WEIGHTS, grams=measured, ridge=ridge)
    assert np.allclose(product(merged).numpy(), expected, atol=1e-9)


def test_equal_grams_give_the_mean_and_none_too():
    updates = drawn()
    same = [grams(updates)[0]] * 3
    mean = product(fedbraid.merge("average", updates))
    for measured in (same, [{}, {}, {}], [{"fc": torch.zeros(9, 9)}] * 3):
        assert torch.allclose(product(fedbraid.merge("regmean", updates, grams=measured)), mean, atol=1e-9)


def test_a_gram_that_cannot_be_solved_is_named():
    with pytest.raises(RunError, match=r"layer 'fc'.*not positive definite"):
        fedbraid.merge("regmean", drawn(), grams=[{"fc": torch.ones(9, 9)}] * 3, ridge=0)


@given(
    ranks=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    weights=st.lists(st.floats(0.01, 10), min_size=4, max_size=4),
    sizes=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    scales=st.lists(st.floats(0.1, 20), min_size=4, max_size=4),
    seed=st.integers(0, 10**6),
)
def test_the_effective_update_is_the_mean_of_the_effective_updates(ranks, weights, sizes, scales, seed):
    updates = [
        {"fc": (left, scale * right)}
        for scale, update in zip(scales, drawn(ranks, *sizes, seed), strict=False)
        for left, right in update.values()
    ]
    shares = weights[: len(ranks)]
    expected = sum(w / sum(shares) * dense(u) for w, u in zip(shares, updates, strict=True))
    for rule in ("average", "fedex"):
        merged = fedbraid.merge(rule, updates, weights=shares)
        assert (product(merged) - expected).norm() <= 1e-12 * sum(dense(u).norm() for u in updates)
    assert fedbraid.merge("average", updates, weights=shares).adapter["fc"][1].shape[0] <= min(*sizes, sum(ranks))


@pytest.mark.parametrize("rule", RULES)
def test_one_update_is_left_as_it_is_where_nothing_is_dropped(rule):
    updates = drawn((3,))
    merged = fedbraid.merge(rule, updates, keep=1, grams=grams(updates))
    assert torch.allclose(product(merged), dense(updates[0]), atol=1e-9)


@pytest.mark.parametrize("rule", ["average", "fedex", "factors", "ties", "regmean", "lorm"])
def test_the_order_of_adapters_does_not_matter(rule):
    updates = drawn()
    measured = grams(updates)
    order = [2, 0, 1]
    one = fedbraid.merge(rule, updates, weights=WEIGHTS, grams=measured, rank=7)
    other = fedbraid.merge(
        rule,
        [updates[i] for i in order],
        weights=[WEIGHTS[i] for i in order],
        grams=[measured[i] for i in order],
        rank=7,
    )
    assert torch.allclose(product(one), product(other), atol=1e-9)


def test_redundant_rank_is_not_stored():
    update = drawn((2,), 20, 20)[0]
    assert fedbraid.merge("average", [update] * 5).adapter["fc"][1].shape[0] == 2
    nothing = {"fc": (torch.zeros(20, 2), torch.randn(2, 20))}
    assert fedbraid.merge("average", [nothing]).adapter["fc"][1].shape[0] == 1


def test_large_dense_updates_go_through_subspace_iteration():
    draws = torch.Generator().manual_seed(0)
    values = 0.7 ** torch.arange(60, dtype=torch.float64)
    u, v = (torch.linalg.qr(torch.randn(n, 60, generator=draws, dtype=torch.float64)).Q for n in (1100, 1030))
    (left, right), cut = thin_of_dense((u * values) @ v.T, 8)
    assert right.shape == (8, 1030)
    assert cut == pytest.approx(values[8:].norm().item(), rel=1e-9)
    assert torch.allclose(left @ right, (u[:, :8] * values[:8]) @ v[:, :8].T, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "mean"}, "no rule 'mean'; known are average"),
        ({"updates": []}, "no updates"),
        ({"weights": [1, 2]}, "2 weights for 3 adapters"),
        ({"weights": [1, 0, 1]}, "not all positive"),
        ({"rank": 0}, "bounded by 0"),
        ({"keep": 0.0}, "keep is 0"),
        ({"ridge": -1.0}, "ridge is -1"),
        ({"rule": "regmean"}, "regmean needs Grams"),
        ({"rule": "lorm", "grams": [{}]}, "Grams for 1 of 3"),
        ({"rule": "regmean", "grams": [{"fc": torch.ones(9)}] * 3}, "whole Grams"),
        ({"rule": "regmean", "grams": [{"fc": torch.eye(9)}, {}, {}]}, "under 1 of 3"),
        ({"updates": [*drawn((2, 2)), *drawn((2,), 7, 8)]}, "do not fit an update of"),
    ],
)
def test_refusals(change, message):
    settings = {"rule": "average", "updates": drawn()} | change
    with pytest.raises(UserError, match=message):
        fedbraid.merge(settings.pop("rule"), settings.pop("updates"), **settings)
