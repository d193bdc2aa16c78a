"""How far a client's facts lie from those of the others, rule by rule.

Sizes compare by their logarithms, since honest ones differ by factors: how far one lies from the median, against the
limit's logarithm or so many standard deviations, whichever is more; the standard deviation is estimated as 1.4826 times
the median absolute deviation, which a minority cannot move far.

More samples make more steps, and more terms of a sum. So a size is expected between that of the median client and its
multiple by the client's share of samples; what counts is how far it lies outside of that. A client's share is to one
that a third of the clients lie below, or above: where a third lie about their counts, the median is no honest one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from fedbraid.core import ClientId
from fedbraid.runtimes.robust.facts import SOME, Change, Facts
from fedbraid.runtimes.robust.thresholds import FEWEST, Thresholds

NORMAL = 1.4826
"""The standard deviation of normal numbers over their median absolute deviation."""
AGAINST, AGAINST_ALONE = 0.4, 0.5
"""The least cosine against the others that is called opposition where they hardly agree; and with one kind of value."""
CLEAR = 0.3
"""The mean cosine of all kinds from which most agree so clearly that opposition is measured by that alone."""
AGREED = 0.2
"""The cosine from which most are said to agree."""
TRACES = 3.0
"""How much more the traces of Grams may differ than the samples behind them."""
FISHER = 100.0
"""How much more squares of gradients may differ than those of inputs: they do by orders of magnitude."""
APART = 0.6
"""How much less than most a client may agree, where clients are said to be alike."""

Sizes = Mapping[ClientId, float]
Shares = Mapping[ClientId, tuple[float, float]]
"""Logarithms of a client's samples to those of a client that has many, and to those of one that has few."""


@dataclass(frozen=True)
class Comparison:
    """By how much each client breaks away in one respect, and how much it may; `told` says such a number in words."""

    rule: str
    tensor: str
    away: Sizes
    limit: float
    told: Callable[[float], str]

    def beyond(self) -> Iterator[ClientId]:
        return (client for client, away in self.away.items() if away > self.limit)


def more(away: float) -> str:
    return f"{math.exp(away):.3g} times the median"


def less(away: float) -> str:
    return "nothing" if away == math.inf else f"the median over {math.exp(away):.3g}"


def cosine(away: float) -> str:
    return f"a cosine of {-away:.2f}"


def deviation(values: list[float]) -> float:
    """The standard deviation of normal numbers with this median absolute deviation.

    >>> round(deviation([1.0, 2.0, 3.0, 4.0, 100.0]), 4)
    1.4826
    """
    middle = median(values)
    return NORMAL * median(abs(value - middle) for value in values)


def compared(facts: Mapping[ClientId, Facts], thresholds: Thresholds) -> Iterator[Comparison]:
    """All but the directions of changes, which mean little among updates of which some are too large."""
    yield from _weights(facts, thresholds)
    yield from _traces(facts, thresholds)
    yield from _spreads(facts, thresholds)
    yield from _sums(facts, thresholds)
    yield from _changes(facts, thresholds)


def _weights(facts: Mapping[ClientId, Facts], thresholds: Thresholds) -> Iterator[Comparison]:
    known = {name for own in facts.values() for name in own.traces}
    loose = _of_gradients(facts)
    for name, sizes in _by_name({client: own.weights for client, own in facts.items()}):
        away = _from_median({client: size for client, size in sizes.items() if size > 0})
        limit = thresholds.weight * (TRACES if name in known else 1.0) * (FISHER if name in loose else 1.0)
        yield from _judged("no larger a weight than others' by far", name, away, limit, thresholds, more)


def _traces(facts: Mapping[ClientId, Facts], thresholds: Thresholds) -> Iterator[Comparison]:
    rule, loose = "a trace by sample like that of others", _of_gradients(facts)
    for name, sizes in _by_name({client: own.traces for client, own in facts.items()}):
        away, fisher = _from_median(sizes), name in loose
        yield from _judged(rule, name, away, thresholds.trace * (FISHER if fisher else 1.0), thresholds, more)
        if not fisher:  # where a client has learned all it has, nothing is left of its gradients
            yield from _judged(rule, name, _turned(away), thresholds.trace, thresholds, less)


def _spreads(facts: Mapping[ClientId, Facts], thresholds: Thresholds) -> Iterator[Comparison]:
    """Of Grams on a few samples at least; where nobody says how many, of those that weigh as much as if on some."""
    for name, sizes in _by_name({client: own.spreads for client, own in facts.items()}):
        weights = {client: facts[client].weights[name] for client in sizes}
        light = median(weights.values()) / SOME
        judged = {c: size for c, size in sizes.items() if facts[c].samples or weights[c] >= light}
        away = _turned(_from_median(judged))
        yield from _judged("a Gram of more than one direction", name, away, thresholds.spread, thresholds, less)


def _sums(facts: Mapping[ClientId, Facts], thresholds: Thresholds) -> Iterator[Comparison]:
    shares = _shares(facts)
    for name, sizes in _by_name({client: own.sums for client, own in facts.items()}):
        away = _outside(_from_median(sizes), shares)
        limit = thresholds.change if shares else thresholds.weight
        yield from _judged("a sum as large as others'", name, away, limit, thresholds, more)


def _changes(facts: Mapping[ClientId, Facts], thresholds: Thresholds) -> Iterator[Comparison]:
    """The changes of a kind and of each tensor are no larger than others'; those of all kinds are not all too small."""
    shares, still = _shares(facts), dict[ClientId, float]()
    for kind, changes in by_kind(facts).items():
        away = _outside(_from_median({client: change.norm for client, change in changes.items()}), shares)
        yield from _judged("a change as large as others'", kind, away, thresholds.change, thresholds, more)
        for client, size in _turned(away).items():
            still[client] = min(still.get(client, math.inf), size)
        for name, squares in _by_name({client: change.squares for client, change in changes.items()}):
            sizes = {client: square**0.5 for client, square in squares.items()}
            away = _outside(_from_median(sizes), shares)
            yield from _judged("a change as large as others'", name, away, thresholds.tensor, thresholds, more)
    yield from _judged("any change", "", still, thresholds.still, thresholds, less)


def directions(facts: Mapping[ClientId, Facts], thresholds: Thresholds, classes: int) -> Iterator[Comparison]:
    """Who points the other way than the others; and where all are said to be alike, who does not point in their way.

    A client's agreement is the median of its cosines with the others, so that a minority cannot make it. Opposition is
    judged by the mean over the kinds of change, for in one kind alone honest clients of different classes show it.
    """
    cosines = {kind: _cosines(changes) for kind, changes in by_kind(facts).items() if len(changes) == len(facts)}
    if not cosines or len(facts) < FEWEST:
        return
    opposition = thresholds.opposition(classes)
    if opposition is not None:
        agreement = _agreements(facts, torch.stack([*cosines.values()]).mean(0))
        limit = _opposition(opposition * common(agreement), common(agreement), len(cosines))
        yield Comparison("no change against that of others", "", _turned(agreement), limit, cosine)
    for kind, matrix in cosines.items() if thresholds.alike else ():
        agreement = _agreements(facts, matrix)
        if common(agreement) >= AGREED:
            limit = APART - common(agreement)
            yield Comparison("a change in the direction of others", kind, _turned(agreement), limit, cosine)


def _opposition(limit: float, agreed: float, kinds: int) -> float:
    """The limit of opposition, never nearer than what honest clients show that hardly agree."""
    if kinds == 1:
        return max(AGAINST_ALONE, limit)
    return limit if agreed >= CLEAR else max(AGAINST, limit)


def common(agreement: Sizes) -> float:
    """How much most agree: three in four no more. Who points another way is among the lower ones."""
    return sorted(agreement.values())[(3 * len(agreement)) // 4]


def by_kind(facts: Mapping[ClientId, Facts]) -> Mapping[str, Mapping[ClientId, Change]]:
    """The changes of every kind of tuned values."""
    kinds = sorted({kind for own in facts.values() for kind in own.moved})
    return {
        kind: {client: (own.moved if moved else own.sent)[kind] for client, own in facts.items() if kind in own.moved}
        for kind, moved in ((kind, is_moved(facts, kind)) for kind in kinds)
    }


def is_moved(facts: Mapping[ClientId, Facts], kind: str) -> bool:
    """Whether what was received is to be taken away from what was sent of a kind to have the change.

    A method may send values or their changes: what is smaller in most clients is the change.
    """
    holders = [own for own in facts.values() if kind in own.moved]
    return median(own.moved[kind].norm for own in holders) <= median(own.sent[kind].norm for own in holders)


def _of_gradients(facts: Mapping[ClientId, Facts]) -> set[str]:
    """The names of squared gradients."""
    return {name for own in facts.values() for name in own.gradients}


def _judged(
    rule: str, name: str, away: Sizes, factor: float, thresholds: Thresholds, told: Callable[[float], str]
) -> Iterator[Comparison]:
    """Against the factor or so many deviations; nothing where too few have what is compared."""
    if len(away) < FEWEST:
        return
    spread = deviation([*away.values()])
    limit = max(math.log(factor), thresholds.deviations * spread if math.isfinite(spread) else 0.0)
    yield Comparison(rule, name, away, limit, told)


def _by_name(facts: Mapping[ClientId, Mapping[str, float]]) -> Iterator[tuple[str, Sizes]]:
    """The sizes of every name that enough clients have."""
    for name in sorted({name for own in facts.values() for name in own}):
        sizes = {client: own[name] for client, own in facts.items() if name in own}
        if len(sizes) >= FEWEST:
            yield name, sizes


def _from_median(sizes: Sizes) -> Sizes:
    """Logarithms of what sizes are to their median; nothing where that is zero."""
    middle = median(sizes.values()) if sizes else 0.0
    return {client: _log(size / middle) for client, size in sizes.items()} if middle > 0 else {}


def _outside(away: Sizes, shares: Shares) -> Sizes:
    """How far a size lies outside of what no growth with the samples, and growth in proportion to them, would give."""
    found: dict[ClientId, float] = {}
    for client, size in away.items():
        least, most = shares.get(client, (0.0, 0.0))
        found[client] = max(size - max(0.0, most), min(0.0, size - min(0.0, least)))
    return found


def _shares(facts: Mapping[ClientId, Facts]) -> Shares:
    """Nothing where clients do not say how many samples they have."""
    samples = {client: own.samples for client, own in facts.items() if own.samples > 0}
    ranked = sorted(samples.values())
    few, many = (ranked[len(ranked) // 3], ranked[2 * len(ranked) // 3]) if ranked else (1.0, 1.0)
    return {client: (math.log(own / many), math.log(own / few)) for client, own in samples.items()}


def _turned(away: Sizes) -> Sizes:
    return {client: -size for client, size in away.items()}


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _cosines(changes: Mapping[ClientId, Change]) -> Tensor:
    """(clients x clients), by the sketches; zero with a change of nothing."""
    sketches = torch.stack([change.sketch for change in changes.values()])
    units = sketches / sketches.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return units @ units.T


def _agreements(clients: Iterable[ClientId], cosines: Tensor) -> Sizes:
    """The median cosine of each client's change with those of the others."""
    rows: list[list[float]] = cosines.tolist()
    return {
        client: median(value for other, value in enumerate(row) if other != place)
        for place, (client, row) in enumerate(zip(clients, rows, strict=True))
    }
