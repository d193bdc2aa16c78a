"""How far the mean of the factors lies from the mean of the updates, from sums whose size does not grow with clients.

Singhal et al., FedEx-LoRA, ACL 2025 (arXiv 2410.09432) report the scaled Frobenius norm of this deviation by layer:

    D = sum_i p_i B_i A_i - Bbar Abar
    scaled = |D|_F / sqrt(d_out d_in),      relative = |D|_F / |sum_i p_i B_i A_i|_F

The paper does not say what it scales by; here it is the root of the number of entries, so that `scaled` is the size of
a typical entry. The norms are estimated from D Omega with a random Omega (d_in x width), whose expected squared norm is
that of D times the width: its relative standard error is 1 / sqrt(2 width) where D has rank one, and less elsewhere.
Sums: n_i B_i (A_i Omega), n_i B_i, n_i A_i Omega by layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from fedbraid.algebra import Statistic, Tensors, select

WIDTH = 32


def lift(update: Tensors) -> Statistic:
    """The sums of one update; empty where it does not hold both factors of a layer."""
    found: dict[str, Tensor] = {}
    for layer, left in select(update, "lora_B").items():
        right = update.get(f"lora_A/{layer}")
        if right is None:
            continue
        count, left = update["count"].double(), left.double()
        seen = right.double() @ _probe(left.shape[0], right.shape[1], layer)
        found[f"product/{layer}"] = count * (left @ seen)
        found[f"left/{layer}"], found[f"right/{layer}"] = count * left, count * seen
    return Statistic(found | {"count": update["count"]}) if found else Statistic()


def solve(total: Tensors, scale: float) -> Mapping[str, tuple[float, float]]:
    """(scaled, relative) by layer, of updates `scale B A`; relative is zero where no update is other than zero."""
    found: dict[str, tuple[float, float]] = {}
    for layer, product in select(total, "product").items():
        count = total["count"]
        mean = product / count
        lost = mean - (total[f"left/{layer}"] / count) @ (total[f"right/{layer}"] / count)
        size, off = _norm(mean), _norm(lost)
        found[layer] = (abs(scale) * off, off / size if size else 0.0)
    return found


def _norm(matrix: Tensor) -> float:
    return matrix.square().sum().sqrt().item()


def _probe(d_out: int, d_in: int, layer: str) -> Tensor:
    """Omega, scaled so that |M Omega|_F estimates |M|_F / sqrt(d_out d_in)."""
    seed = int.from_bytes(hashlib.sha256(f"deviation {layer}".encode()).digest()[:8], "big") >> 1
    drawn = torch.randn(d_in, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn / (WIDTH * d_out * d_in) ** 0.5
