"""Seeded choices of rows: a held-out share, a few samples of each class, a few of all.

Every choice has a generator of its own, a function of the seed and of what the choice is for, so adding a
class or asking for another subset changes no other choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch


def derive(*key: object) -> int:
    """A seed for one use of randomness: a function of the key."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


def generator(*key: object) -> torch.Generator:
    """A generator of its own for one use of randomness."""
    return torch.Generator().manual_seed(derive(*key))


def held_out(
    labels: Sequence[str], fraction: float, seed: int, purpose: str = "held out"
) -> tuple[list[int], list[int]]:
    """(kept, held out): of every class the fraction, rounded, but one sample at least and never the last one.

    Shares for different purposes are drawn apart.

    >>> kept, held = held_out(["a"] * 10 + ["b"], 0.2, seed=0)
    >>> len(kept), len(held)
    (9, 2)
    """
    held: list[int] = []
    for label, indices in _by_label(labels).items():
        count = min(max(round(fraction * len(indices)), 1), len(indices) - 1)
        held += _drawn(indices, count, generator(seed, purpose, label))
    chosen = set(held)
    return [i for i in range(len(labels)) if i not in chosen], sorted(held)


def per_class(labels: Sequence[str], count: int, seed: int, split: str) -> list[int]:
    """At most `count` samples of each class, in the order of the rows."""
    chosen: list[int] = []
    for label, indices in _by_label(labels).items():
        chosen += _drawn(indices, count, generator(seed, "per class", split, label))
    return sorted(chosen)


def in_proportion(labels: Sequence[str], count: int, seed: int, split: str) -> list[int]:
    """At most `count` samples, the classes in the proportion that they have, in the order of the rows.

    >>> len(in_proportion(["a"] * 30 + ["b"] * 10, 8, seed=0, split="train"))
    8
    """
    groups = _by_label(labels)
    exact = {label: min(count / len(labels), 1.0) * len(indices) for label, indices in groups.items()}
    counts = {label: int(share) for label, share in exact.items()}
    short = min(count, len(labels)) - sum(counts.values())
    for label in sorted(groups, key=lambda label: counts[label] - exact[label])[:short]:
        counts[label] += 1
    chosen: list[int] = []
    for label, indices in groups.items():
        chosen += _drawn(indices, counts[label], generator(seed, "in proportion", split, label))
    return sorted(chosen)


def _by_label(labels: Sequence[str]) -> dict[str, list[int]]:
    result: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        result.setdefault(label, []).append(index)
    return result


def _drawn(indices: list[int], count: int, generator: torch.Generator) -> list[int]:
    return [indices[i] for i in torch.randperm(len(indices), generator=generator)[:count].tolist()]
