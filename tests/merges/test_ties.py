"""TIES against trim, elect and merge written out entry by entry, and by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from fedbraid.algebra import Statistic, total
from fedbraid.merges import Mean, Ties


def update(count: float, **values: Sequence | Tensor) -> dict[str, Tensor]:
    """The changes of `base/<name>`."""
    named = {f"base/{name}": torch.as_tensor(value, dtype=torch.float32) for name, value in values.items()}
    return {"count": torch.tensor(count, dtype=torch.float64), **named}


def merged(merge: Ties | Mean, updates: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return dict(merge.solve(total(map(merge.lift, updates))))


def drawn(counts: Sequence[float] = (4, 4, 4), *, seed: int = 0) -> list[dict[str, Tensor]]:
    """Changes of two values, of which the second is ten times smaller."""
    draws = torch.Generator().manual_seed(seed)
    return [update(n, x=torch.randn(5, 6, generator=draws), y=0.1 * torch.randn(20, generator=draws)) for n in counts]


def published(updates: Sequence[dict[str, Tensor]], keep: float) -> np.ndarray:
    """Trim, elect and merge of the paper's algorithm on flat vectors, weighted by counts."""
    vectors = [torch.cat([u["base/x"].flatten(), u["base/y"]]).tolist() for u in updates]
    weights = [u["count"].item() for u in updates]
    trimmed = []
    for vector in vectors:
        largest = sorted(range(len(vector)), key=lambda i: -abs(vector[i]))[: round(keep * len(vector))]
        trimmed.append([vector[i] if i in largest else 0.0 for i in range(len(vector))])
    result = []
    for entries in zip(*trimmed, strict=True):
        sign = np.sign(sum(n * e for n, e in zip(weights, entries, strict=True)))
        agreeing = [(n, e) for n, e in zip(weights, entries, strict=True) if e != 0 and np.sign(e) == sign]
        result.append(sum(n * e for n, e in agreeing) / sum(n for n, _ in agreeing) if agreeing else 0.0)
    return np.array(result)


@pytest.mark.parametrize("counts", [(4, 4, 4), (9, 1, 3), (0.2, 0.3, 0.4)], ids=str)
@pytest.mark.parametrize("keep", [1.0, 0.9, 0.5, 0.2, 0.02])
def test_it_is_the_published_algorithm(keep: float, counts: tuple[float, ...]) -> None:
    updates = drawn(counts)
    found = merged(Ties(keep), updates)
    flat = torch.cat([found["base/x"].flatten(), found["base/y"].flatten()])
    assert np.allclose(flat.numpy(), published(updates, keep), rtol=1e-12, atol=0)


def test_conflicting_signs_by_hand() -> None:
    """Columns: all agree; the heavier side wins; weights decide; one alone; nobody; a tie changes nothing."""
    updates = [
        update(1, x=[1.0, 3.0, 3.0, 0.0, 0.0, 2.0]),
        update(1, x=[3.0, -1.0, 0.0, 0.0, 0.0, 0.0]),
        update(2, x=[2.0, -1.5, -2.0, -5.0, 0.0, -1.0]),
    ]
    expected = [(1 + 3 + 2 * 2) / 4, -(1 + 2 * 1.5) / 3, -2.0, -5.0, 0.0, 0.0]
    assert merged(Ties(1.0), updates)["base/x"].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("keep", [k / 10 for k in range(1, 11)])
def test_the_share_that_is_kept_is_exact(keep: float) -> None:
    (one,) = drawn((4,))
    found = merged(Ties(keep), [one])
    kept = torch.cat([found["base/x"].flatten(), found["base/y"]])
    assert (kept != 0).sum().item() == round(keep * 50)
    sizes = torch.cat([one["base/x"].flatten(), one["base/y"]]).abs()
    assert sizes[kept == 0].max() < sizes[kept != 0].min() if keep < 1 else torch.equal(kept.abs().float(), sizes)


@pytest.mark.parametrize("keep", [1e-18, 1e-3])
def test_at_least_one_entry_is_kept(keep: float) -> None:
    (one,) = drawn((4,))
    assert (merged(Ties(keep), [one])["base/x"] != 0).sum().item() == 1


def test_signs_that_agree_are_averaged() -> None:
    updates = [{k: v if k == "count" else v.abs() for k, v in u.items()} for u in drawn((9, 1, 3))]
    found, mean = merged(Ties(1.0), updates), merged(Mean(), updates)
    assert all(torch.allclose(found[key], mean[key], rtol=1e-12) for key in mean)


def test_neither_sign_is_preferred() -> None:
    updates = [*drawn((2, 1)), update(3, x=-drawn()[0]["base/x"], y=torch.zeros(20))]
    opposite = [{k: v if k == "count" else -v for k, v in u.items()} for u in updates]
    found, turned = merged(Ties(0.5), updates), merged(Ties(0.5), opposite)
    assert all(torch.equal(found[key], -turned[key]) for key in found)


def test_heads_are_averaged_and_take_no_part_in_trimming() -> None:
    updates = drawn((9, 1, 3))
    heads = [{**u, "head/0": torch.full((2, 3), 100.0 * i)} for i, u in enumerate(updates)]
    found = merged(Ties(0.2), heads)
    assert torch.equal(found.pop("head/0"), torch.full((2, 3), (100.0 + 600.0) / 13, dtype=torch.float64))
    plain = merged(Ties(0.2), updates)
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[key], plain[key]) for key in plain)


def test_sums_may_be_taken_in_parts_on_the_way() -> None:
    updates, merge = drawn((9, 1, 3)), Ties(0.5)
    lifted = [Statistic(dict(merge.lift(u))) for u in updates]
    assert {tuple(value.shape) for value in lifted[0].values()} == {(), (5, 6), (20,)}
    grouped, whole = merge.solve(lifted[2] + (lifted[0] + lifted[1])), merged(merge, updates)
    assert all(torch.allclose(whole[key], grouped[key], rtol=1e-12) for key in whole)
