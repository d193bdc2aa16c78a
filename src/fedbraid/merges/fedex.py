"""Exact aggregation of low-rank updates: the mean of the factors, and what that mean loses.

Singhal et al., FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation Models, ACL 2025
(arXiv 2410.09432); Yu et al., Fed-TaLoRA (arXiv 2505.12318), whose residual weight update is the same.

    A* = sum_i p_i A_i,   B* = sum_i p_i B_i,   R = sum_i p_i B_i A_i - B* A*

so that B* A* + R is the mean of the updates. How R is known to the server, by `encoding`:

    factors     clients' factors, kept apart; R has exact factors of rank (K - 1) r (see `low_rank.residual`)
    sketch      sums of n_i B_i (A_i Omega) and n_i (Psi B_i) A_i; exact once the width reaches (K - 1) r
    dense       sums of n_i B_i A_i, (d_out x d_in)

The last two add up, so a secure sum computes them.
Travels up: both factors, the sample count; or, lifted on the client, what is named above and n_i B_i, n_i A_i.
Differs from the public code: R is never formed as a matrix but under `dense`, and means are weighted by sample counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from fedbraid.algebra import Statistic, Tensors, select
from fedbraid.errors import RunError
from fedbraid.low_rank import Factors, probes, residual, sketch, unsketch
from fedbraid.merges import gathered
from fedbraid.merges.base import Loss, Merge
from fedbraid.merges.mean import Mean
from fedbraid.quantities import SENDERS, SKETCH, UPDATE_PRODUCT, Gives

RESIDUAL = "residual"
ROUNDING = 1e-13
"""What singular values of a sketch are zero beside its size, in fp64."""
Encoding = Literal["factors", "sketch", "dense"]
_SENT: Mapping[Encoding, Gives] = {
    "factors": gathered.GIVES,
    "sketch": {"senders": SENDERS, "columns": SKETCH, "rows": SKETCH},
    "dense": {"senders": SENDERS, "product": UPDATE_PRODUCT},
}


@dataclass(frozen=True)
class FedEx(Merge):
    """The mean of every value; of low-rank factors also `residual_B/<layer>` and `residual_A/<layer>`, whose product
    is what the mean loses, or `residual/<layer>` under `dense`. All of a trained scale of one."""

    encoding: Encoding = "factors"
    width: int = 0
    """Of a sketch."""
    bound: int = 0
    """On the rank of the residual that is kept at once (see `methods.residuals`); 0 bounds nothing."""

    def gives(self) -> Gives:
        return {**Mean().gives(), **_SENT[self.encoding]}

    def loses(self) -> Loss:
        """Nothing; with a bound what it cuts off, until later rounds bring it."""
        return "its own" if self.bound else "nothing"

    def lift(self, update: Tensors) -> Statistic:
        mean = Mean().lift({key: value for key, value in update.items() if not key.startswith(gathered.CLIENT)})
        if self.encoding == "factors":
            return mean + gathered.lift(update)
        count, found = update["count"].double(), {"senders": torch.ones((), dtype=torch.float64)}
        for layer, left in select(update, "lora_B").items():
            pair = (left.double() * count, update[f"lora_A/{layer}"].double())
            if self.encoding == "dense":
                found[f"product/{layer}"] = pair[0] @ pair[1]
            else:
                found[f"columns/{layer}"], found[f"rows/{layer}"] = sketch(pair, *self._probes(pair, layer))
        return mean + Statistic(found)

    def solve(self, total: Statistic) -> Tensors:
        merged = dict(Mean().solve(total))
        for layer in select(merged, "lora_B"):
            means = (merged[f"lora_B/{layer}"], merged[f"lora_A/{layer}"])
            if self.encoding == "dense":
                merged[f"{RESIDUAL}/{layer}"] = total[f"product/{layer}"] / total["count"] - means[0] @ means[1]
            else:
                left, right = self._residual(total, layer, means)
                merged |= {f"{RESIDUAL}_B/{layer}": left, f"{RESIDUAL}_A/{layer}": right}
        return merged

    def _residual(self, total: Statistic, layer: str, means: Factors) -> Factors:
        if self.encoding == "factors":
            lefts, rights = zip(*gathered.factors(total, layer), strict=True)
            return residual(lefts, rights, gathered.weights(total))
        own, count = self._probes(means, layer), total["count"]
        rank = (int(total["senders"].item()) - 1) * means[1].shape[0]
        needed = min(rank, means[0].shape[0], means[1].shape[1])
        if self.width < needed:
            raise RunError(
                f"a sketch of width {self.width} cannot hold the residual of layer {layer!r}, whose rank may be "
                f"{needed}; set method.sketch_width to (clients in a round - 1) x rank or more"
            )
        columns, rows = sketch(means, *own)
        mean = total[f"columns/{layer}"] / count, total[f"rows/{layer}"] / count
        floor = ROUNDING * (own[1] @ mean[0]).square().sum().sqrt().item()
        return unsketch(mean[0] - columns, mean[1] - rows, own[1], rank=rank, floor=floor)

    def _probes(self, pair: Factors, layer: str) -> Factors:
        """Drawn from the layer's name, so that clients and server have the same without sending them."""
        seed = int.from_bytes(hashlib.sha256(layer.encode()).digest()[:8], "big") >> 1
        shape = (pair[0].shape[0], pair[1].shape[1])
        return probes(shape, self.width, torch.Generator().manual_seed(seed))
