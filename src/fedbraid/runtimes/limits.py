"""What the numbers of an update must keep to, by what they stand for.

    count, metric/samples, ...    whole numbers from zero on, below a limit, that agree with each other
    what was received as well     a tuned value: not far larger than it was, nor than a limit
    Grams                         finite, of a trace below a limit, positive semi-definite (see `gram_rules`)
    all others                    sums over samples: so much a sample at most

The limits are loose. An honest update keeps to them whatever the method, the model and the data; they stop what is
absurd and would end a run or spoil it for all. What is false and yet possible they do not stop.

The prefixes `beside`, `metric`, `fit`, `held` and `client/<id>` of a name say where a tensor belongs, not what it is.
Tensors of names that are not known here are sums.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedbraid.algebra import Tensors


@dataclass(frozen=True)
class Limits:
    """The largest that is taken, of each kind."""

    samples: float = 1e9
    """Of a count."""
    value: float = 1e6
    """Of a tuned value, in size."""
    growth: float = 10.0
    """Of a tuned value over the largest that was received under its name, where that is above `value` already."""
    sample: float = 1e9
    """What one sample adds to a sum, in size."""
    trace: float = 1e18
    """Of a Gram, in total: a limit a sample would grow with the count that a client says it has."""
    rounding: float = 16.0
    """How far below zero an eigenvalue of a Gram may lie, as a multiple of the wire's rounding of its trace. The wire
    moves it by less than one; the rest is for Grams that were summed in fp32."""
    spare: int = 65536
    """Bytes of a message beyond those of its numbers and names."""


@dataclass(frozen=True)
class Breach:
    """A rule that a tensor breaks: the value that was found, and what is allowed."""

    tensor: str
    rule: str
    value: str
    limit: str


@dataclass(frozen=True)
class Named:
    """A tensor of an update: `own` is its name behind the prefixes, `place` the prefixes."""

    name: str
    place: str
    own: str
    tensor: Tensor

    @property
    def kind(self) -> str:
        return self.own.split("/", 1)[0]


PREFIX = re.compile(r"^(?:(?:beside|metric|fit|held|client/[^/]+)/)*")
COUNTS = ("count", "samples", "correct", "total", "confusion", "score_samples", "tokens", "senders")
NON_NEGATIVE = ("diagonal", "values", "fisher")
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def named(tensors: Tensors) -> list[Named]:
    """The tensors with their names taken apart, counts first, since limits of others depend on them."""
    places = ((name, PREFIX.match(name)) for name in tensors)
    ends = ((name, found.end() if found else 0) for name, found in places)
    entries = [Named(name, name[:end], name[end:], tensors[name]) for name, end in ends]
    return sorted(entries, key=lambda entry: not is_count(entry))


def is_count(entry: Named) -> bool:
    """Whether it counts something, in whole numbers."""
    return entry.own in COUNTS or entry.kind in ("asked", "right") or entry.kind.endswith("_count")


def is_gram(entry: Named) -> bool:
    """Whether it holds symmetric matrices, where its shape is one of triangles or of a square."""
    return entry.kind in ("triangle", "gram", "second")


def samples_of(tensors: Tensors, limits: Limits) -> float:
    """How many samples an update says are behind it; the most that may be, where it does not say."""
    if "count" in tensors:
        return tensors["count"].double().sum().item()
    parts = [tensors[name].double().sum().item() for name in ("fit/count", "held/count") if name in tensors]
    return sum(parts) if parts else limits.samples


def types(entries: Sequence[Named]) -> Iterator[Breach]:
    """Whether all are numbers of a type that can be looked at."""
    for entry in entries:
        if entry.tensor.dtype not in (*FLOATS, *WHOLE):
            yield Breach(entry.name, "numbers of a known type", str(entry.tensor.dtype), "floating point or whole")


def sizes(entries: Sequence[Named], received: Tensors, limits: Limits, samples: float) -> Iterator[Breach]:
    """Whether all numbers are finite and none is too large, or below zero where it cannot be."""
    for entry in entries:
        tensor = entry.tensor
        if not tensor.numel():
            continue
        least, most = (bound.item() for bound in torch.aminmax(tensor.int() if tensor.dtype == torch.bool else tensor))
        if not (abs(least) < float("inf") and abs(most) < float("inf")):  # also where one of them is no number
            wrong = tensor.numel() - int(torch.isfinite(tensor).sum())
            value = "nan" if bool(torch.isnan(tensor).any()) else "infinity"
            yield Breach(entry.name, "finite", f"{value} ({wrong} of {tensor.numel()} numbers)", "")
            continue
        limit, what = _largest(entry, received, limits, samples)
        if max(-least, most) > limit and max(-least, most) > possible_value(entry.own, received, limits):
            yield Breach(entry.name, what, f"{max(least, most, key=abs):.6g}", f"{limit:.6g} in size")
        if least < 0 and (is_count(entry) or entry.kind in NON_NEGATIVE):
            yield Breach(entry.name, "not below zero", f"{least:.6g}", "0")


def _largest(entry: Named, received: Tensors, limits: Limits, samples: float) -> tuple[float, str]:
    """The largest number that a tensor may hold, and what that is of it."""
    if entry.name == "metric/loss":
        return float("inf"), "a loss"  # it goes to the report alone, and squares of what is to be told have no bound
    if is_count(entry):
        return (limits.sample * limits.samples if entry.own == "tokens" else limits.samples), "a possible count"
    if is_gram(entry) or entry.kind in NON_NEGATIVE:
        return limits.trace, "a possible sum of squares"
    if entry.kind == "vectors":
        return 1 + 1e-3, "a part of a vector of length one"
    if entry.own in received or entry.own.removeprefix("sum/") in received:
        return limits.value * (1 if entry.own in received else samples), "a possible value"
    return limits.sample * max(samples, 1.0), f"a possible sum over {samples:.6g} samples"


def possible_value(name: str, received: Tensors, limits: Limits) -> float:
    """The largest that a tuned value of that name may hold; zero for what is none."""
    before = received.get(name)
    if before is None or not before.numel():
        return 0.0 if before is None else limits.value
    return max(limits.value, limits.growth * before.double().abs().max().item())


def whole(entries: Sequence[Named]) -> Iterator[Breach]:
    """Whether counts are whole."""
    for entry in entries:
        if is_count(entry) and entry.tensor.is_floating_point() and (entry.tensor != entry.tensor.round()).any():
            broken = entry.tensor[entry.tensor != entry.tensor.round()].flatten()[0].item()
            yield Breach(entry.name, "a whole number", f"{broken:.6g}", "")


def counts(entries: Sequence[Named], samples: float) -> Iterator[Breach]:
    """Whether counts are whole, there is one sample at least, and all that count the same agree."""
    yield from whole(entries)
    if not samples >= 1:
        yield Breach("count", "samples behind an update", f"{samples:.6g}", "at least 1")
    known = {entry.name: entry.tensor for entry in entries}
    count = known.get("count")
    if count is not None and count.ndim == 0:
        yield from _agreeing(entries, samples)
    for entry in entries:
        if entry.own == "senders" and entry.tensor.double().sum().item() != 1:
            yield Breach(entry.name, "one sender", f"{entry.tensor.double().sum().item():.6g}", "1")


def _agreeing(entries: Sequence[Named], samples: float) -> Iterator[Breach]:
    """Counts by class add up to the count of all, and training sees every sample equally often."""
    for entry in entries:
        total = entry.tensor.double().sum().item() if is_count(entry) else 0.0
        if entry.name == "metric/samples" and (total < samples or total % samples):
            yield Breach(entry.name, "a multiple of count", f"{total:.6g}", f"{samples:.6g} times the epochs")
        if entry.own == "count" and entry.place not in ("fit/", "held/") and abs(total - samples) > 1e-6 * samples:
            yield Breach(entry.name, "the samples of count", f"{total:.6g} in sum", f"{samples:.6g}")
