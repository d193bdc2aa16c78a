"""Weighted averaging of every value.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017 (FedAvg).

    w* = sum_i n_i w_i / sum_i n_i

Travels up: every tuned value and the sample count n_i.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedbraid.algebra import Statistic, Tensors, select
from fedbraid.errors import RunError
from fedbraid.merges.base import Loss, Merge, values
from fedbraid.quantities import SAMPLES, WEIGHTED, Gives


@dataclass(frozen=True)
class Mean(Merge):
    """The mean of the clients' values, weighted by their sample counts."""

    def gives(self) -> Gives:
        return {"count": SAMPLES, "sum": WEIGHTED}

    def loses(self) -> Loss:
        return "cross terms"

    def lift(self, update: Tensors) -> Statistic:
        count = update["count"].double()
        return Statistic({"count": count} | {f"sum/{key}": count * update[key].double() for key in values(update)})

    def solve(self, total: Statistic) -> Tensors:
        """`RunError` where the clients' sample counts sum to nothing."""
        count = total["count"]
        if not count.item() > 0:
            raise RunError("the clients' sample counts sum to zero: there is nothing to average")
        return {key: value / count for key, value in select(total, "sum").items()}
