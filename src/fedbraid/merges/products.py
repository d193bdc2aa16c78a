"""Merges of low-rank updates by their products: stacked side by side, or cut down to the best of a rank.

    Stack   B* = [p_1 B_1 ... p_K B_K],  A* = [A_1; ...; A_K]:  B* A* = sum_i p_i B_i A_i,  of rank K r
    Cut     B* = U S, A* = V^T of the r leading singular triplets of the same sum

Stack: Wang et al., FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank Adaptations, NeurIPS
2024 (arXiv 2409.05976). Cut: Bai et al., FlexLoRA: Federated Fine-tuning of Large Language Models under Heterogeneous
Tasks and Client Resources, NeurIPS 2024 (arXiv 2402.11505).
Travels up: both factors, of any rank, the sample count.
Differs from public code: weights by sample counts; the singular value decomposition is that of a core of size K r, not
of the d_out x d_in product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedbraid.algebra import Statistic, Tensors, without
from fedbraid.low_rank import Factors, split, stacked
from fedbraid.merges import gathered
from fedbraid.merges.base import Loss, Merge
from fedbraid.merges.fedex import RESIDUAL
from fedbraid.merges.mean import Mean
from fedbraid.quantities import Gives


@dataclass(frozen=True)
class Stack(Merge):
    """`residual_B/<layer>` and `residual_A/<layer>`, whose product is the mean update; the mean of everything else."""

    def gives(self) -> Gives:
        return {**Mean().gives(), **gathered.GIVES}

    def loses(self) -> Loss:
        return "nothing"

    def lift(self, update: Tensors) -> Statistic:
        return _lift(update)

    def solve(self, total: Statistic) -> Tensors:
        merged = dict(Mean().solve(total))
        for layer in gathered.layers(total):
            merged[f"{RESIDUAL}_B/{layer}"], merged[f"{RESIDUAL}_A/{layer}"] = _product(total, layer)
        return merged


@dataclass(frozen=True)
class Cut(Merge):
    """The best factors of the mean update that the rank allows; the mean of everything else."""

    rank: int

    def gives(self) -> Gives:
        return Stack().gives()

    def lift(self, update: Tensors) -> Statistic:
        return _lift(update)

    def solve(self, total: Statistic) -> Tensors:
        merged: dict[str, Tensor] = dict(Mean().solve(total))
        for layer in gathered.layers(total):
            (left, right), _ = split(_product(total, layer), self.rank, even=False)
            missing = self.rank - left.shape[1]  # a small layer may have fewer singular values than the rank
            merged[f"lora_B/{layer}"] = _padded(left, missing, 1)
            merged[f"lora_A/{layer}"] = _padded(right, missing, 0)
        return merged


def _lift(update: Tensors) -> Statistic:
    return Mean().lift(without(update, *gathered.FACTORS, gathered.CLIENT)) + gathered.lift(update)


def _product(total: Statistic, layer: str) -> Factors:
    return stacked(gathered.factors(total, layer), list(gathered.weights(total)))


def _padded(factor: Tensor, missing: int, dim: int) -> Tensor:
    shape = list(factor.shape)
    shape[dim] = max(missing, 0)
    return factor if missing <= 0 else torch.cat([factor, factor.new_zeros(shape)], dim)
