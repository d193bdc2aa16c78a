"""The few numbers that are kept of an update, to compare it with the others when all are there.

    weights     every count, and the total trace of every Gram
    traces      the trace of every Gram by sample
    spreads     1 - |G|^2 / trace(G)^2 of every Gram: zero for rank one, near one where no direction stands out
    sums        the size of every other sum over samples: the norms of its rows, added, so that clients whose samples
                fill different rows compare
    changes     of every kind of tuned values the norm and a sketch (see `sketches`), as sent and from what was received

What is compared of a tensor says its quantity. A method may send a tuned value as it is or as its change, and which of
both it is shows in the cohort (see `selection`). Nothing here grows with the model but the names of its tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import Round
from fedbraid.runtimes.gram_rules import side
from fedbraid.runtimes.robust.sketches import WIDTH, corner, signs, sketch
from fedbraid.wire import Entry, anonymous, samples_behind

SOME = 5
"""Samples from which a Gram of rank one is strange: a handful may well be alike."""


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
    gradients: frozenset[str]
    """The names that are of squared gradients, not of inputs."""
    weights: Mapping[str, float]
    traces: Mapping[str, float]
    spreads: Mapping[str, float]
    sums: Mapping[str, float]
    sent: Mapping[str, Change]
    moved: Mapping[str, Change]


def facts_of(entries: Sequence[Entry], received: Tensors, round: Round) -> Facts:
    """The facts of an update that has passed the gate."""
    of = {what: [entry for entry in entries if _compared(entry, received) == what] for what in COMPARED}
    squares = [*of["trace"], *of["gradients"]]
    weights = {anonymous(entry.name): entry.tensor.double().sum().item() for entry in of["weight"]}
    traces, spreads = dict[str, float](), dict[str, float]()
    for entry, samples, trace, square in _grams(squares, entries):
        name = anonymous(entry.name)
        weights[name] = trace
        if samples:
            traces[name] = trace / samples
        if trace and entry.quantity.compared == "trace" and (samples >= SOME or not samples):
            spreads[name] = max(1 - square / trace**2, 0.0)
    sizes = {
        anonymous(entry.name): torch.atleast_2d(entry.tensor.double()).norm(dim=-1).sum().item()
        for entry in of["size"]
        if entry.tensor.ndim
    }
    gradients = frozenset(anonymous(entry.name) for entry in of["gradients"])
    sent, moved = _changes(of["change"], received, round)
    return Facts(samples_behind(entries) or 0.0, gradients, weights, traces, spreads, sizes, sent, moved)


COMPARED = ("change", "weight", "trace", "gradients", "size")


def _compared(entry: Entry, received: Tensors) -> str:
    """What of it is compared; of a value that nobody received its size, as there is no change."""
    what = entry.quantity.compared
    return "size" if what == "change" and not is_change(entry, received) else what


def _changes(
    entries: Sequence[Entry], received: Tensors, round: Round
) -> tuple[Mapping[str, Change], Mapping[str, Change]]:
    """(values as they were sent, what they are away from what was received), by kind."""
    sent, moved = dict[str, Change](), dict[str, Change]()
    for entry in entries:
        name, value, start = anonymous(entry.name), entry.tensor.double(), received[entry.own]
        drawn = signs(start.shape, round, name)
        sent.setdefault(entry.kind, Change()).add(name, value, drawn)
        moved.setdefault(entry.kind, Change()).add(name, value - start[corner(value)].double(), drawn)
    return sent, moved


def is_change(entry: Entry, received: Tensors) -> bool:
    """Whether it is a tuned value that was received, or a corner of one."""
    start = received.get(entry.own)
    if entry.quantity.compared != "change" or start is None or start.ndim != entry.tensor.ndim:
        return False
    return all(a <= b for a, b in zip(entry.tensor.shape, start.shape, strict=True)) and entry.tensor.numel() > 0


def _grams(squares: Sequence[Entry], entries: Sequence[Entry]) -> Iterator[tuple[Entry, float, float, float]]:
    """(sum of squares, samples behind it, trace, sum of squared entries) of every one."""
    known = {entry.name: entry.tensor for entry in entries}
    counts = [entry for entry in entries if entry.quantity.counts in ("samples", "the same")]
    told = {entry.place: entry.tensor.double().sum().item() for entry in counts}
    for entry in squares:
        samples = told.get(entry.place, samples_behind(entries) or 0.0)
        leading = [known.get(f"{entry.place}{form}/{entry.key}") for form in ("vectors", "values")]
        yield entry, samples, *_trace_and_square(entry, leading)


def _trace_and_square(entry: Entry, leading: list[Tensor | None]) -> tuple[float, float]:
    """Of a Gram as a triangle, a square, or a diagonal, which may be the rest beside `leading` eigenpairs."""
    tensor, form = entry.tensor.double(), entry.quantity.form
    vectors, values = leading
    if form == "diagonal" and vectors is not None and values is not None:
        return _of_low_rank(vectors.double(), values.double(), tensor)
    if form == "square":
        return tensor.diagonal().sum().item(), tensor.square().sum().item()
    if form != "triangle":
        return tensor.sum().item(), tensor.square().sum().item()
    summed = tensor.reshape(-1, tensor.shape[-1]).sum(0)
    diagonal = summed[torch.arange(1, side(summed) + 1).cumsum(0) - 1]
    return diagonal.sum().item(), (2 * summed.square().sum() - diagonal.square().sum()).item()


def _of_low_rank(vectors: Tensor, values: Tensor, diagonal: Tensor) -> tuple[float, float]:
    """Of `V diag(values) V^T + diag(diagonal)`, without making it a matrix."""
    weighted = (vectors.square() * values).sum(1)
    core = (vectors.T @ vectors) * values
    square = (core * core.T).sum() + diagonal.square().sum() + 2 * (diagonal * weighted).sum()
    return (weighted.sum() + diagonal.sum()).item(), square.item()
