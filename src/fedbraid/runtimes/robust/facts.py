"""The few numbers that are kept of an update, to compare it with the others when all are there.

    weights     every count, and the total trace of every Gram
    traces      the trace of every Gram by sample
    spreads     1 - |G|^2 / trace(G)^2 of every Gram: zero for rank one, near one where no direction stands out
    sums        the size of every other sum over samples: the norms of its rows, added, so that clients whose samples
                fill different rows compare
    changes     of every kind of tuned values the norm and a sketch (see `sketches`), as sent and from what was received

A tuned value is what has the name of something received; a method may send it as it is or as its change, and which of
both it is shows in the cohort (see `selection`). Nothing here grows with the model but the names of its tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import Round
from fedbraid.runtimes.gram_rules import side
from fedbraid.runtimes.limits import NON_NEGATIVE, Named, is_count, is_gram, named
from fedbraid.runtimes.robust.sketches import WIDTH, corner, signs, sketch

SOME = 5
"""Samples from which a Gram of rank one is strange: a handful may well be alike."""
APART = ("vectors", "values", "client", "senders")
"""Kinds that are no sums by themselves: parts of a Gram that its diagonal stands for, and who sends."""


@dataclass
class Change:
    """The norm of what was sent of a kind of values, by tensor and as a whole, and its sketch."""

    squares: dict[str, float] = field(default_factory=dict[str, float])
    sketch: Tensor = field(default_factory=lambda: torch.zeros(WIDTH, dtype=torch.float64))

    @property
    def norm(self) -> float:
        return sum(self.squares.values()) ** 0.5

    def add(self, name: str, tensor: Tensor, signs: Tensor) -> None:
        self.squares[name] = tensor.square().sum().item()
        self.sketch += sketch(tensor, signs)


@dataclass(frozen=True)
class Facts:
    """Of one update. `samples` is zero where it does not say how many are behind it."""

    samples: float
    weights: Mapping[str, float]
    traces: Mapping[str, float]
    spreads: Mapping[str, float]
    sums: Mapping[str, float]
    sent: Mapping[str, Change]
    moved: Mapping[str, Change]


def facts_of(tensors: Tensors, received: Tensors, round: Round) -> Facts:
    """The facts of an update that has passed the gate."""
    entries = [entry for entry in named(tensors) if not entry.place.startswith("metric/")]
    weights = {label(entry): entry.tensor.double().sum().item() for entry in entries if is_count(entry)}
    traces, spreads = dict[str, float](), dict[str, float]()
    for name, samples, trace, square in _grams(entries):
        weights[name] = trace
        if samples:
            traces[name] = trace / samples
        if trace and not is_fisher(name) and (samples >= SOME or not samples):
            spreads[name] = max(1 - square / trace**2, 0.0)
    sent, moved = _changes([entry for entry in entries if is_value(entry, received)], received, round)
    return Facts(_samples(entries), weights, traces, spreads, _sums(entries, received), sent, moved)


def _changes(
    entries: list[Named], received: Tensors, round: Round
) -> tuple[Mapping[str, Change], Mapping[str, Change]]:
    """(values as they were sent, what they are away from what was received), by kind."""
    sent, moved = dict[str, Change](), dict[str, Change]()
    for entry in entries:
        name, value, start = label(entry), entry.tensor.double(), received[entry.own]
        drawn = signs(start.shape, round, name)
        sent.setdefault(group(name), Change()).add(name, value, drawn)
        moved.setdefault(group(name), Change()).add(name, value - start[corner(value)].double(), drawn)
    return sent, moved


def _sums(entries: list[Named], received: Tensors) -> Mapping[str, float]:
    """The size of every sum by name: the norms of its rows, added."""
    return {
        label(entry): torch.atleast_2d(entry.tensor.double()).norm(dim=-1).sum().item()
        for entry in entries
        if entry.tensor.ndim and not (is_count(entry) or _is_squares(entry) or entry.kind in APART)
        if not is_value(entry, received)
    }


def label(entry: Named) -> str:
    """A tensor's name without whose it is, so that those of different clients compare."""
    return re.sub(r"(^|/)client/[^/]+(?=/|$)", r"\1client", entry.name)


def group(name: str) -> str:
    """The kind of a tuned value by its name."""
    return name.split("/", 1)[0]


def is_fisher(name: str) -> bool:
    """Whether it names squares of gradients, not of inputs."""
    return "fisher" in name.split("/")[:2]


def is_value(entry: Named, received: Tensors) -> bool:
    """Whether something of this name was received, of which it is the whole or a corner."""
    start = received.get(entry.own)
    if start is None or start.ndim != entry.tensor.ndim or not entry.tensor.numel():
        return False
    return start.is_floating_point() and all(a <= b for a, b in zip(entry.tensor.shape, start.shape, strict=True))


def _samples(entries: list[Named]) -> float:
    """How many samples are said to be behind an update; zero where nothing is said."""
    counts = {entry.name: entry.tensor.double().sum().item() for entry in entries if entry.own == "count"}
    return counts["count"] if "count" in counts else sum(counts.get(f"{part}/count", 0.0) for part in ("fit", "held"))


def _is_squares(entry: Named) -> bool:
    """Whether it is a sum of squares, of which a Gram is one; what a Gram's diagonal stands for is none by itself."""
    return entry.kind not in APART and (is_gram(entry) or entry.kind in NON_NEGATIVE)


def _grams(entries: list[Named]) -> Iterator[tuple[str, float, float, float]]:
    """(name, samples behind it, trace, sum of squared entries) of every sum of squares."""
    known = {entry.name: entry.tensor for entry in entries}
    for entry in filter(_is_squares, entries):
        count = known.get(f"{entry.place}count")
        samples = _samples(entries) if count is None else count.double().sum().item()
        key = entry.own.partition("/")[2]
        leading = [known.get(f"{entry.place}{form}/{key}") for form in ("vectors", "values")]
        yield label(entry), samples, *_trace_and_square(entry, leading)


def _trace_and_square(entry: Named, leading: list[Tensor | None]) -> tuple[float, float]:
    """Of a Gram as a triangle, a square, or a diagonal, which may be the rest beside `leading` eigenpairs."""
    tensor = entry.tensor.double()
    vectors, values = leading
    if not is_gram(entry) and vectors is not None and values is not None:
        return _of_low_rank(vectors.double(), values.double(), tensor)
    if not is_gram(entry) or not tensor.ndim:
        return tensor.sum().item(), tensor.square().sum().item()
    if tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1]:
        return tensor.diagonal().sum().item(), tensor.square().sum().item()
    summed = tensor.reshape(-1, tensor.shape[-1]).sum(0)
    diagonal = summed[torch.arange(1, side(summed) + 1).cumsum(0) - 1]
    return diagonal.sum().item(), (2 * summed.square().sum() - diagonal.square().sum()).item()


def _of_low_rank(vectors: Tensor, values: Tensor, diagonal: Tensor) -> tuple[float, float]:
    """Of `V diag(values) V^T + diag(diagonal)`, without making it a matrix."""
    weighted = (vectors.square() * values).sum(1)
    core = (vectors.T @ vectors) * values
    square = (core * core.T).sum() + diagonal.square().sum() + 2 * (diagonal * weighted).sum()
    return (weighted.sum() + diagonal.sum()).item(), square.item()
