"""What is in a message: its tensors, told apart by what was declared of their names.

    [place/]kind[/key]        beside/first, fit/gram, lora_B/blocks.0.fc1, client/7/count

A place says which tensors belong together, a kind what a tensor is (see `quantities`), a key what it is of. Under
`client/<id>/` lies what is one client's own; declarations write a star for the id.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.errors import UserError
from fedbraid.quantities import RESERVED, Gives, Quantity


@dataclass(frozen=True)
class Entry:
    """A tensor of a message: `<place><kind>/<key>` is its name, `quantity` what was declared of it."""

    name: str
    quantity: Quantity
    place: str
    kind: str
    key: str
    tensor: Tensor

    @property
    def own(self) -> str:
        """Its name at its place: of a tuned value the one under which it was received."""
        return f"{self.kind}/{self.key}" if self.key else self.kind

    @property
    def label(self) -> str:
        """What reports call it."""
        return self.quantity.label or self.kind


def declared(gives: Gives, whose: str, reserved: Mapping[str, Quantity | None] = RESERVED) -> Gives:
    """The same; `UserError` where it gives a name a meaning that the name cannot have. `whose` says who declares."""
    for name, quantity in gives.items():
        if name.startswith("client/*") and quantity.owned:
            continue
        first = name.split("/", 1)[0]
        meant = reserved.get(first)
        if first in reserved and (meant is None or (meant.role, meant.form) != (quantity.role, quantity.form)):
            means = f"which is the name of a {meant.form or meant.role}" if meant else "which is the library's"
            taken = ", ".join(sorted({one.split("/", 1)[0] for one in reserved}))
            raise UserError(
                f"{whose} declares {name!r} as a {quantity.form or quantity.role}, {means}: choose another. These "
                f"names are taken: {taken}. What is one client's own is declared by quantities.own({{...}})"
            )
    return gives


def entries(tensors: Tensors, gives: Gives) -> list[Entry]:
    """All tensors whose names are declared, counts first, since limits of others depend on them."""
    found = [entry for name, tensor in tensors.items() if (entry := _entry(name, tensor, gives))]
    return sorted(found, key=lambda entry: entry.quantity.role != "count")


def undeclared(names: Iterable[str], gives: Gives) -> list[str]:
    """The names of which nothing is declared, sorted."""
    return sorted(name for name in names if _pattern(name, gives) is None)


def fraction(name: str, gives: Gives) -> int | None:
    """How many bits of the numbers of this name lie after the point of a masked sum; None where there is no such sum,
    of what is one client's own as of what is not declared."""
    pattern = _pattern(name, gives)
    return None if pattern is None else gives[pattern].fraction


def samples_behind(entries: Sequence[Entry]) -> float | None:
    """How many samples a message says are behind it, in all its parts; None where it does not say."""
    counts = [entry.tensor.double().sum().item() for entry in entries if entry.quantity.counts == "samples"]
    return sum(counts) if counts else None


def width(entry: Entry) -> int:
    """The width of a Gram; 0 for what is none, or is listed with another part of it."""
    shape, form = tuple(entry.tensor.shape), entry.quantity.form
    if form in ("", "values") or not shape:
        return 0
    if form == "triangle":
        return (math.isqrt(8 * shape[-1] + 1) - 1) // 2
    return shape[0] if form == "vectors" else shape[-1]


def misshapen(entry: Entry) -> str:
    """Which shape a Gram must have that is laid out as declared; empty where it has it, and for what is none."""
    shape, form = tuple(entry.tensor.shape), entry.quantity.form
    if form == "triangle" and (not shape or width(entry) * (width(entry) + 1) // 2 != shape[-1]):
        return "a triangle of d (d + 1) / 2 numbers in the last dimension"
    if form == "square" and (len(shape) != 2 or shape[0] != shape[1]):
        return "a square matrix"
    return "d numbers" if form == "diagonal" and len(shape) != 1 else ""


_CLIENT = re.compile(r"(^|/)client/[^/]+")


def anonymous(name: str) -> str:
    """A name without whose it is, so that those of different clients compare.

    >>> anonymous("beside/client/7/first"), anonymous("client/7")
    ('beside/client/*/first', 'client/*')
    """
    return _CLIENT.sub(r"\1client/*", name)


def _pattern(name: str, gives: Gives) -> str | None:
    """The longest beginning that is declared; one that ends in a star is a whole name."""
    if name in gives:
        return name
    plain = anonymous(name) if "client/" in name else name
    if plain in gives:
        return plain
    parts = plain.split("/")
    beginnings = ("/".join(parts[:size]) for size in range(len(parts) - 1, 0, -1))
    return next((start for start in beginnings if start in gives and not start.endswith("*")), None)


def _entry(name: str, tensor: Tensor, gives: Gives) -> Entry | None:
    pattern = _pattern(name, gives)
    if pattern is None:
        return None
    places = pattern.count("/")
    parts = name.split("/")
    place, kind, key = parts[:places], parts[places], parts[places + 1 :]
    return Entry(name, gives[pattern], "".join(f"{part}/" for part in place), kind, "/".join(key), tensor)
