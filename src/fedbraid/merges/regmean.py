"""Merging linear layers by matching responses.

Jin et al., Dataless Knowledge Fusion by Merging Weights of Language Models, ICLR 2023 (RegMean), equation 2; applied to
one factor of a low-rank update at a time by Salami et al., Closed-form merging of parameter-efficient modules for
federated continual learning, ICLR 2025 (LoRM).

The merged layer answers every client's inputs X_i as that client's own layer does, in the least-squares sense:

    W* = argmin sum_i |W X_i - W_i X_i|^2 + lam |W - Wbar|^2
       = (sum_i W_i G_i + lam Wbar) (sum_i G_i + lam I)^-1,      G_i = X_i X_i^T,  Wbar = sum_i n_i W_i / sum_i n_i

with `lam = ridge * trace(sum_i G_i) / d`. A value without a Gram is averaged.

The same solve merges any one part of a layer, such as a low-rank factor or a scaling, by a Gram of that part's own,
which `merges.parts` lists. A layer's weight and bias are one value under a Gram of [x, 1] that is named for the layer.

Travels up: the value, its Gram in any form of `merges.grams`, and the sample count; or, lifted on the client, the
products W_i G_i, n_i W_i and G_i.
Differs from the public code: a ridge to the mean in place of a pseudo-inverse, which inflates directions that nobody
has seen; symmetric matrices travel as triangles; a diagonal Gram is divided by and never made a matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fedbraid.algebra import Statistic, Tensors
from fedbraid.errors import RunError
from fedbraid.linalg import right_solve
from fedbraid.merges import grams, parts
from fedbraid.merges.base import Merge
from fedbraid.merges.mean import Mean
from fedbraid.quantities import GRAMS, PRODUCT, Gives


@dataclass(frozen=True)
class RegMean(Merge):
    """Closed-form merge of every value that has a Gram, the mean of the others."""

    ridge: float = 1e-6
    """Relative to the mean diagonal entry of the summed Gram; must be above 0 where a Gram may be singular."""

    def gives(self) -> Gives:
        return {**Mean().gives(), **GRAMS, "product": PRODUCT}

    def lift(self, update: Tensors) -> Statistic:
        statistic: dict[str, Tensor] = dict(Mean().lift(update))
        for key in grams.measured(update):
            gram = grams.read(update, key)
            statistic |= grams.write(key, gram)
            statistic[f"product/{key}"] = grams.times(parts.read(update, key), gram)
        return Statistic(statistic)

    def solve(self, total: Statistic) -> Tensors:
        """`RunError` naming the value whose Gram cannot be solved."""
        merged = dict(Mean().solve(total))
        for key in grams.measured(total):
            gram = grams.read(total, key)
            try:
                solved = right_solve(total[f"product/{key}"], gram, parts.read(merged, key), ridge=self.ridge)
            except RunError as error:
                raise RunError(f"cannot merge {key!r}: {error}") from error
            merged |= parts.write(merged, key, solved)
        return merged
