"""What the numbers of an update must keep to, by their quantities.

    counts      whole numbers from zero on, below a limit, that agree with each other
    values      not far larger than what was received, nor than a limit
    Grams       finite, of a trace below a limit, positive semi-definite (see `gram_rules`)
    sums        so much a sample at most

The limits are loose. An honest update keeps to them whatever the method, the model and the data; they stop what is
absurd and would end a run or spoil it for all. What is false and yet possible they do not stop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from fedbraid.algebra import Tensors
from fedbraid.wire import Entry


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
class Violation:
    """A rule that a tensor breaks: the value that was found, and what is allowed."""

    tensor: str
    rule: str
    value: str
    limit: str


FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def types(entries: Sequence[Entry]) -> Iterator[Violation]:
    """Whether all are numbers of a type that can be looked at."""
    for entry in entries:
        if entry.tensor.dtype not in (*FLOATS, *WHOLE):
            yield Violation(entry.name, "numbers of a known type", str(entry.tensor.dtype), "floating point or whole")


def sizes(entries: Sequence[Entry], received: Tensors, limits: Limits, samples: float) -> Iterator[Violation]:
    """Whether all numbers are finite and none is too large, or below zero where it cannot be."""
    for entry in entries:
        tensor = entry.tensor
        if not tensor.numel():
            continue
        least, most = (bound.item() for bound in torch.aminmax(tensor.int() if tensor.dtype == torch.bool else tensor))
        if not (abs(least) < float("inf") and abs(most) < float("inf")):  # also where one of them is no number
            wrong = tensor.numel() - int(torch.isfinite(tensor).sum())
            value = "nan" if bool(torch.isnan(tensor).any()) else "infinity"
            yield Violation(entry.name, "finite", f"{value} ({wrong} of {tensor.numel()} numbers)", "")
            continue
        limit, what = _largest(entry, received, limits, samples)
        if max(-least, most) > limit:
            yield Violation(entry.name, what, f"{max(least, most, key=abs):.6g}", f"{limit:.6g} in size")
        if least < 0 and not entry.quantity.signed:
            yield Violation(entry.name, "not below zero", f"{least:.6g}", "0")


def _largest(entry: Entry, received: Tensors, limits: Limits, samples: float) -> tuple[float, str]:
    """The largest number that a tensor may hold, and what that is of it."""
    bound = entry.quantity.bound
    if bound == "nothing":  # it goes to the report alone, and squares of what is to be told have no bound
        return math.inf, "a number"
    if bound == "value":
        return possible_value(entry.own, received, limits), "a possible value"
    if bound == "values":
        return possible_value(entry.key, received, limits) * max(samples, 1.0), "a possible value"
    if bound == "count":
        return limits.samples, "a possible count"
    if bound == "tokens":
        return limits.sample * limits.samples, "a possible count"
    if bound == "trace":
        return limits.trace, "a possible sum of squares"
    if bound == "one":
        return 1 + 1e-3, "a number of size one at most"
    return limits.sample * max(samples, 1.0), f"a possible sum over {samples:.6g} samples"


def possible_value(name: str, received: Tensors, limits: Limits) -> float:
    """The largest that a tuned value of that name may hold."""
    before = received.get(name)
    if before is None or not before.numel():
        return limits.value
    return max(limits.value, limits.growth * before.double().abs().max().item())


def whole(entries: Sequence[Entry]) -> Iterator[Violation]:
    """Whether counts are whole."""
    for entry in entries:
        tensor = entry.tensor
        if entry.quantity.role == "count" and tensor.is_floating_point() and (tensor != tensor.round()).any():
            broken = tensor[tensor != tensor.round()].flatten()[0].item()
            yield Violation(entry.name, "a whole number", f"{broken:.6g}", "")


def counts(entries: Sequence[Entry], samples: float | None) -> Iterator[Violation]:
    """Whether counts are whole, and all that count the same agree with the `samples` that are told, one at least."""
    yield from whole(entries)
    if samples is not None and not samples >= 1:
        yield Violation("count", "samples behind an update", f"{samples:.6g}", "at least 1")
    for entry in entries:
        found = entry.tensor.double().sum().item() if entry.quantity.counts else 0.0
        if entry.quantity.counts == "sender" and found != 1:
            yield Violation(entry.name, "one sender", f"{found:.6g}", "1")
        if samples is None:
            continue
        if entry.quantity.counts == "epochs" and (found < samples or found % samples):
            yield Violation(entry.name, "a multiple of count", f"{found:.6g}", f"{samples:.6g} times the epochs")
        if entry.quantity.counts == "the same" and abs(found - samples) > 1e-6 * samples:
            yield Violation(entry.name, "the samples of count", f"{found:.6g} in sum", f"{samples:.6g}")
