"""What a merge is: prepare, plus, present.

A merge turns one client's update into a statistic (`lift`), the sums of statistics are taken elsewhere, and `solve`
turns a sum into new values of the state. Merges are pure: tensors in, tensors out, no model and no data.

An update names tuned values by their state keys (`head/0`, `lora_A/<layer>`, ...), the number of samples behind them
`count`, and what was measured about a value by `<form>/<key>` (see `merges.grams` and `merges.fisher`).
"""

from __future__ import annotations

from typing import Protocol

from fedbraid.algebra import Statistic, Tensors
from fedbraid.merges.grams import FORMS

MEASURED = (*FORMS, "fisher", "client")
"""The kinds of what is measured about a value, and of what says whose an update is."""


class Merge(Protocol):
    """One rule of merging clients' updates."""

    def lift(self, update: Tensors) -> Statistic:
        """The statistic of one client's update."""
        ...

    def solve(self, total: Statistic) -> Tensors:
        """A patch: state keys -> merged values, in fp64."""
        ...


def values(update: Tensors) -> list[str]:
    """The keys of an update's tuned values: everything but the count and what was measured."""
    return [key for key in update if key != "count" and key.split("/", 1)[0] not in MEASURED]
