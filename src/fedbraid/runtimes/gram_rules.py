"""What sums of squares and products must keep to: no data give others.

A Gram G = sum x x^T has no eigenvalue below zero but by the rounding of its entries on the wire. Each is rounded by at
most u |G_ij| <= u sqrt(G_ii G_jj), so an eigenvalue moves by at most u trace(G). So Cholesky's factorisation of

    G + slack I,      slack = limits.rounding * u * trace(G),

in fp64, succeeds for what is honest. A Gram that travels as a triangle cannot be asymmetric; a square one could be.
Sums go with the sums of squares: (sum_i x_i)^2 <= n sum_i x_i^2 (Cauchy, Schwarz), entry by entry. Where clients lift,
their products W G are no larger than the largest possible value times the columns of |G|.
"""

# torch.linalg carries no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.linalg import from_triangle
from fedbraid.runtimes.limits import Limits, Violation, possible_value
from fedbraid.wire import Entry

SINGLE = torch.finfo(torch.float32).eps / 2


def grams(entries: Sequence[Entry], limits: Limits, *, error: float = 0.0) -> Iterator[Violation]:
    """Whether every Gram, whole or by its diagonal, is one of vectors, and of a possible trace.

    `error` is what every number may be off by, beside its rounding; then numbers were fp32 once, whatever they are now.
    """
    for entry in entries:
        form = entry.quantity.form
        if form == "diagonal":
            yield from _trace(entry.name, entry.tensor.double().sum().item(), limits)
        elif form in ("triangle", "square"):
            unit, least = _rounding(entry.tensor)
            unit = max(unit, SINGLE) if error else unit
            if form == "square":
                yield from _symmetric(entry)
            for gram in _matrices(entry):
                yield from _gram(entry.name, gram, limits, unit, least + error * len(gram))


def sums(entries: Sequence[Entry]) -> Iterator[Violation]:
    """Whether sums are as large at most as the sums of squares beside them allow."""
    known = {entry.name: entry.tensor for entry in entries}
    counts = {entry.place: entry.tensor for entry in entries if entry.quantity.counts in ("samples", "the same")}
    for entry in entries:
        if entry.quantity.role != "moment":
            continue
        named = next((name for kind in entry.quantity.against if (name := f"{entry.place}{kind}") in known), "")
        squares, count = known.get(named), counts.get(entry.place)
        if squares is None or count is None or count.shape != squares.shape[:-1]:
            continue
        most = (count.double()[..., None] * _diagonal(squares)).sqrt()
        if entry.tensor.shape[-most.ndim :] != most.shape:
            continue
        unit, least = _rounding(entry.tensor)
        over = entry.tensor.double().abs() - most * (1 + 16 * unit) - least**0.5 * (1 + most)
        if (over > 0).any():
            place = over.argmax()
            value, limit = entry.tensor.flatten()[place].item(), most.expand_as(over).flatten()[place].item()
            yield Violation(entry.name, f"a sum that goes with {named}", f"{value:.6g}", f"{limit:.6g} in size")


def _symmetric(entry: Entry) -> Iterator[Violation]:
    apart = (entry.tensor - entry.tensor.T).abs().max().item()
    if apart > 0:
        yield Violation(entry.name, "a symmetric matrix", f"entries that are {apart:.6g} apart", "0")


def products(entries: Sequence[Entry], received: Tensors, limits: Limits) -> Iterator[Violation]:
    """Whether products that a client took itself, of values and what was measured, are those of possible values."""
    known = {entry.name: entry.tensor for entry in entries}
    for entry in entries:
        for kind in entry.quantity.against if entry.quantity.role == "product" else ():
            measured = known.get(f"{entry.place}{kind}/{entry.key}")
            if measured is not None:
                yield from _product(entry, _reach(kind, measured) * possible_value(entry.key, received, limits))


def _product(entry: Entry, limit: Tensor) -> Iterator[Violation]:
    """`limit` is one a number, or one a column."""
    if entry.tensor.shape[-limit.ndim :] != limit.shape:
        return
    sizes = entry.tensor.double().abs()
    over = sizes - limit * (1 + 1e-3) - _rounding(entry.tensor)[1]
    if (over > 0).any():
        place = over.argmax()
        found = [f"{one.flatten()[place].item():.6g}" for one in (sizes, limit.expand_as(over))]
        yield Violation(entry.name, "a product with a possible value", found[0], f"{found[1]} in size")


def _reach(kind: str, measured: Tensor) -> Tensor:
    """What values of size one come to at most, by column, or by entry where nothing is mixed."""
    mixed = kind == "triangle" and side(measured) > 0
    return from_triangle(measured.double()).abs().sum(0) if mixed else measured.double()


def _gram(name: str, gram: Tensor, limits: Limits, unit: float, least: float) -> Iterator[Violation]:
    diagonal = gram.diagonal()
    trace = diagonal.sum().item()
    slack = limits.rounding * unit * trace + least
    if diagonal.min().item() < 0:
        yield Violation(name, "a diagonal that is not below zero", f"{diagonal.min().item():.6g}", "0")
        return
    yield from _trace(name, trace, limits)
    gram.diagonal().add_(slack)
    row = int(torch.linalg.cholesky_ex(gram).info.item())
    if row:
        yield Violation(name, "no eigenvalue below zero", f"one in the first {row} rows", f"down to -{slack:.3g}")


def _trace(name: str, trace: float, limits: Limits) -> Iterator[Violation]:
    if trace > limits.trace:
        yield Violation(name, "a possible trace", f"{trace:.6g}", f"{limits.trace:.6g}")


def _matrices(entry: Entry) -> Iterator[Tensor]:
    """New matrices in fp64, those that it holds: itself, or one a triangle in the last dimension."""
    tensor = entry.tensor
    if entry.quantity.form == "square":
        yield tensor.to(torch.float64, copy=True)
    elif side(tensor):
        for triangle in tensor.reshape(-1, tensor.shape[-1]):
            yield from_triangle(triangle.double())


def _diagonal(triangles: Tensor) -> Tensor:
    """Those of the matrices whose triangles are in the last dimension; none where these are no triangles."""
    places = torch.arange(1, side(triangles) + 1).cumsum(0) - 1
    return triangles[..., places].double()


def side(triangles: Tensor) -> int:
    """How many rows the matrix has whose triangle is in the last dimension; 0 where it is none."""
    numbers = triangles.shape[-1] if triangles.ndim else 0
    size = (math.isqrt(8 * numbers + 1) - 1) // 2
    return size if size * (size + 1) // 2 == numbers else 0


def _rounding(tensor: Tensor) -> tuple[float, float]:
    """(largest relative error of a number on the wire, smallest number): zero for whole ones."""
    if not tensor.is_floating_point():
        return 0.0, 0.0
    kind = torch.finfo(tensor.dtype)
    return kind.eps / 2, kind.tiny
