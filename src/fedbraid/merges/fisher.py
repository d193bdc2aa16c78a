"""Averaging weighted by Fisher information.

Matena and Raffel, Merging Models with Fisher-Weighted Averaging, NeurIPS 2022, equation 6, with diagonal Fisher
matrices F_i (here sums over the client's samples, which carry its sample count).

    w* = (sum_i F_i ∘ w_i + lam wbar) / (sum_i F_i + lam),      wbar = sum_i n_i w_i / sum_i n_i

elementwise, with `lam = floor * mean(sum_i F_i)` of each value: where no client's answers depend on an entry, it is
averaged. A value without a Fisher is averaged.
Travels up: the value, its Fisher under `fisher/<key>`, and the sample count.
Differs from the public code: that scales every Fisher to norm one and raises the entries of one chosen model to an
absolute floor, so that where nothing is known that model's value stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedbraid.algebra import Statistic, Tensors, select
from fedbraid.errors import RunError
from fedbraid.merges.base import Merge
from fedbraid.merges.mean import Mean
from fedbraid.quantities import FISHER_PRODUCT, SQUARES, Gives


@dataclass(frozen=True)
class Fisher(Merge):
    """The Fisher-weighted mean of every value that has a Fisher, the mean of the others."""

    floor: float = 1e-6
    """Relative to the mean of the summed Fisher; at 0 only entries that are zero everywhere are averaged."""

    def gives(self) -> Gives:
        return {**Mean().gives(), "fisher": SQUARES, "weighted": FISHER_PRODUCT}

    def lift(self, update: Tensors) -> Statistic:
        statistic: dict[str, Tensor] = dict(Mean().lift(update))
        for key, fisher in select(update, "fisher").items():
            statistic[f"fisher/{key}"] = fisher
            statistic[f"weighted/{key}"] = fisher.double() * update[key].double()
        return Statistic(statistic)

    def solve(self, total: Statistic) -> Tensors:
        """`RunError` naming the value whose Fisher is not finite."""
        merged = dict(Mean().solve(total))
        for key, fisher in select(total, "fisher").items():
            if not torch.isfinite(fisher).all():
                raise RunError(f"cannot merge {key!r}: its Fisher is not finite; a client sent NaN or infinity")
            lam = self.floor * fisher.mean()
            weight = fisher + lam
            known = weight > 0
            weighted = (total[f"weighted/{key}"] + lam * merged[key]) / weight.where(known, torch.ones_like(weight))
            merged[key] = torch.where(known, weighted, merged[key])
        return merged
