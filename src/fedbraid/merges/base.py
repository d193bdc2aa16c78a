"""What a merge is: prepare, plus, present.

A merge turns one client's update into a statistic (`lift`), the sums of statistics are taken elsewhere, and `solve`
turns a sum into new values of the state. Merges are pure: tensors in, tensors out, no model and no data.

An update names tuned values by their state keys (`head/0`, `lora_A/<layer>`, ...), the number of samples behind them
`count`, and what was measured about a value by `<form>/<key>` (see `merges.grams` and `merges.fisher`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from fedbraid.algebra import Statistic, Tensors
from fedbraid.quantities import MEASURES, Gives

MEASURED = tuple(name.split("/", 1)[0] for name in MEASURES)
"""The kinds of what is measured about a value, and of what says whose an update is."""
Loss = Literal["nothing", "cross terms", "its own"]


@runtime_checkable
class Merge(Protocol):
    """One rule of merging clients' updates. A rule of one's own derives from it."""

    def gives(self) -> Gives:
        """What a statistic holds, by the beginnings of names."""
        ...

    def loses(self) -> Loss:
        """What the merged low-rank update is away from the mean of the clients': nothing, the products of different
        clients' factors, as where factors are averaged, or something of the rule's own."""
        return "its own"

    def reads(self) -> Sequence[str]:
        """What it reads of what is measured, by the beginnings of names, beside what every merge knows."""
        return ()

    def lift(self, update: Tensors) -> Statistic:
        """The statistic of one client's update."""
        ...

    def solve(self, total: Statistic) -> Tensors:
        """A patch: state keys -> merged values, in fp64."""
        ...


def values(update: Tensors, reads: Sequence[str] = ()) -> list[str]:
    """The keys of an update's tuned values: everything but the count and what was measured.

    `reads` is what the merge reads beside what every merge knows.
    """
    kinds = {"count", *MEASURED, *reads}
    return [key for key in update if key.split("/", 1)[0] not in kinds]
