"""The contract of a merge: statistics that add, and a solve of the sum that knows no order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedbraid.algebra import Tensors, total
from fedbraid.merges import Merge
from fedbraid.merges.base import MEASURED, values


def check_merge(merge: Merge, updates: Sequence[Tensors], *, by_samples: bool = True, tolerance: float = 1e-9) -> None:
    """Checks that it merges by sums: order and copies of all clients change nothing, and no update is changed.

    `updates` are those of at least two clients (see `merges.base`). Where clients count `by_samples`, a client that is
    split in two changes nothing either.
    """
    before = [{key: value.clone() for key, value in update.items()} for update in updates]
    merged = merge.solve(total(map(merge.lift, updates)))
    for update, kept in zip(updates, before, strict=True):
        assert all(torch.equal(update[key], value) for key, value in kept.items()), "lift changed an update in place"
    assert all(torch.isfinite(value).all() for value in merged.values()), "a merged value is not finite"
    _near(merged, merge.solve(total(map(merge.lift, reversed(updates)))), tolerance, "the order of clients matters")
    assert set(merged) <= {key for update in updates for key in values(update)}, "it merged what no client has sent"
    twice = total(merge.lift(update) for update in [*updates, *updates])
    _near(merged, merge.solve(twice), tolerance, "every client taken twice changes the merge")
    if by_samples:
        halves = [_half(updates[0]), _half(updates[0]), *updates[1:]]
        _near(
            merged, merge.solve(total(map(merge.lift, halves))), tolerance, "one client split in two changes the merge"
        )


def _half(update: Tensors) -> dict[str, Tensor]:
    """The update of a client with half of the samples: the same values, half of the count and of all sums."""
    kinds = ("count", *(kind for kind in MEASURED if kind != "vectors"))
    return {key: value / 2 if key.split("/", 1)[0] in kinds else value for key, value in update.items()}


def _near(one: Tensors, other: Tensors, tolerance: float, fault: str) -> None:
    assert one.keys() == other.keys(), fault
    for key, value in one.items():
        scale = max(1.0, value.abs().max().item())
        assert (value - other[key]).abs().max().item() <= tolerance * scale, f"{fault}: {key}"
