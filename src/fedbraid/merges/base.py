"""What a merge is: prepare, plus, present.

A merge turns one client's update into a statistic (`lift`), the sums of statistics are taken elsewhere, and `solve`
turns a sum into new values of the state. Merges are pure: tensors in, tensors out, no model and no data.

An update names tuned values by their state keys (`head/0`, `lora_A/<layer>`, ...), the number of samples behind them
`count`, and what was measured about a value by `<form>/<key>` (see `merges.grams`).
"""

from __future__ import annotations

from typing import Protocol

from fedbraid.algebra import Statistic, Tensors


class Merge(Protocol):
    """One rule of merging clients' updates."""

    def lift(self, update: Tensors) -> Statistic:
        """The statistic of one client's update."""
        ...

    def solve(self, total: Statistic) -> Tensors:
        """A patch: state keys -> merged values, in fp64."""
        ...
