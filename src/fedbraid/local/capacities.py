"""Clients of unequal size: which part of the shared low-rank adapter each trains, and at which scale.

A client of rank r_i trains the first r_i components of the shared factors; the other components are frozen beside them,
or dropped. A client of scale s_i trains with `s_i B A`; what it receives and sends is in the units of the shared scale
s, so that `s B A` is the same update everywhere and statistics of different scales add.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fedbraid.algebra import Tensors, select, without
from fedbraid.core import ClientId

FACTORS = ("lora_A", "lora_B")


@dataclass(frozen=True)
class Capacities:
    """The ranks and scales that differ from the shared ones, by client."""

    scale: float = 1.0
    ranks: Mapping[ClientId, int] = field(default_factory=dict[ClientId, int])
    scales: Mapping[ClientId, float] = field(default_factory=dict[ClientId, float])
    rest: Literal["frozen", "dropped"] = "frozen"

    def receive(self, weights: Tensors, client: ClientId) -> Tensors:
        """The weights as this client loads them to train."""
        if client not in self.ranks and client not in self.scales:
            return weights
        own = self.scales.get(client, self.scale)
        loaded = without(weights, *FACTORS) | {"scale": torch.tensor(own)}
        for layer, left in select(weights, "lora_B").items():
            right = weights[f"lora_A/{layer}"]
            rank = self.ranks.get(client, right.shape[0])
            loaded[f"lora_A/{layer}"] = right[:rank]
            loaded[f"lora_B/{layer}"] = left[:, :rank] * (self.scale / own)
            if self.rest == "frozen" and rank < right.shape[0]:
                loaded |= self._beside(weights, layer, left[:, rank:], right[rank:])
        return loaded

    def send(self, trained: Tensors, client: ClientId) -> dict[str, Tensor]:
        """What was trained, in the units of the shared scale."""
        factor = self.scales.get(client, self.scale) / self.scale
        return {key: value * factor if key.startswith("lora_B/") else value for key, value in trained.items()}

    def whole(self, shared: Tensors, update: Tensors) -> dict[str, Tensor]:
        """The update with factors of the shared rank: those that were not trained as received, or zero if dropped."""
        return {key: self._filled(key, value, shared) for key, value in update.items()}

    def _filled(self, key: str, value: Tensor, shared: Tensors) -> Tensor:
        kind = key.split("/", 1)[0]
        if kind not in FACTORS or shared[key].shape == value.shape:
            return value
        dim = 0 if kind == "lora_A" else 1
        rest = shared[key].narrow(dim, value.shape[dim], shared[key].shape[dim] - value.shape[dim])
        return torch.cat([value, rest if self.rest == "frozen" else torch.zeros_like(rest)], dim)

    def _beside(self, weights: Tensors, layer: str, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        """What has been merged before, with the components that stay as they are."""
        lefts, rights = [left * self.scale], [right]
        if f"delta_B/{layer}" in weights:
            lefts.append(weights[f"delta_B/{layer}"])
            rights.append(weights[f"delta_A/{layer}"])
        return {f"delta_B/{layer}": torch.cat(lefts, 1), f"delta_A/{layer}": torch.cat(rights)}
