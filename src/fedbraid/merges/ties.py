"""Merging changes by trimming, electing signs, and averaging what agrees.

Yadav et al., TIES-Merging: Resolving Interference When Merging Models, NeurIPS 2023.

    trim     of every client's change keep the share `keep` of entries that are largest in size
    elect    the sign of an entry is that of  sum_i n_i t_i; where this is zero, the entry does not change
    merge    the mean, weighted by n_i, of the kept entries that have this sign

All of it follows from four sums an entry: the values and the weights of the positive, and of the negative ones.
Travels up: the changes and the sample count; or, lifted on the client, the four sums. A head's rows belong to its
classes, where nothing is redundant: they are averaged.
Differs from the public code: weights by sample counts (equal counts give the published rule); no rescaling of the
result; a sign that is tied stays zero as in the paper, where the code gives it that of most other entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedbraid.algebra import Statistic, Tensors, select
from fedbraid.merges.base import Merge, values
from fedbraid.merges.mean import Mean
from fedbraid.quantities import SIGN_COUNTS, SIGNED_CHANGES, Gives


@dataclass(frozen=True)
class Ties(Merge):
    """The merge of changes: `keep` is the share of entries that survive trimming, over all values of a client."""

    keep: float = 0.2

    def gives(self) -> Gives:
        changes = dict.fromkeys(("positive", "negative"), SIGNED_CHANGES)
        return {**Mean().gives(), **changes, **dict.fromkeys(("positive_count", "negative_count"), SIGN_COUNTS)}

    def lift(self, update: Tensors) -> Statistic:
        count = update["count"].double()
        merged = [key for key in values(update) if not key.startswith("head/")]
        limit = self._limit([update[key] for key in merged])
        statistic: dict[str, Tensor] = {}
        for key in merged:
            change = torch.where(update[key].abs() >= limit, update[key], torch.zeros_like(update[key])).double()
            for sign, part in (("positive", change.clamp_min(0)), ("negative", change.clamp_max(0))):
                statistic[f"{sign}/{key}"] = count * part
                statistic[f"{sign}_count/{key}"] = count * (part != 0)
        averaged = {key: value for key, value in update.items() if key not in merged}
        return Mean().lift(averaged) + Statistic(statistic)

    def solve(self, total: Statistic) -> Tensors:
        merged = dict(Mean().solve(total))
        for key in select(total, "positive"):
            up, down = total[f"positive/{key}"], total[f"negative/{key}"]
            elected = (up + down).sign()
            agreed = torch.where(elected > 0, up, down)
            count = torch.where(elected > 0, total[f"positive_count/{key}"], total[f"negative_count/{key}"])
            merged[key] = torch.where(elected != 0, agreed / count.where(count > 0, torch.ones_like(count)), 0.0)
        return merged

    def _limit(self, changes: list[Tensor]) -> float:
        """The size of the smallest entry that is kept."""
        sizes = torch.cat([change.flatten().abs() for change in changes]) if changes else torch.zeros(0)
        trimmed = min(round((1 - self.keep) * len(sizes)), len(sizes) - 1)
        return sizes.kthvalue(trimmed + 1).values.item() if trimmed > 0 else 0.0
