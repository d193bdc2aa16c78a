"""What tuned values do to each layer: the adapter's own update and what was merged before, as factors or a matrix."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedbraid.algebra import Tensors, select
from fedbraid.low_rank import Factors, split, stacked
from fedbraid.models.adapters import Adapter
from fedbraid.models.tuning.vera import left_factor, right_matrix

Layers = Mapping[str, tuple[int, int]]
"""(d_out, d_in) of the layers that are tuned, by name."""


def trained_factors(weights: Tensors, adapter: Adapter, layers: Layers) -> dict[str, Factors]:
    """The update of the adapter itself by layer, its scale with the right factor."""
    factors: dict[str, Factors] = {}
    for layer, left in select(weights, "lora_B").items():
        factors[layer] = (left, adapter.scale * weights[f"lora_A/{layer}"])
    for layer, core in select(weights, "core_R").items():
        factors[layer] = (adapter.scale * weights[f"core_B/{layer}"] @ core, weights[f"core_A/{layer}"])
    for layer, (_, d_in) in layers.items() if "vera" in weights else ():
        factors[layer] = (_vera_left(weights, layer), right_matrix(weights["vera"], d_in))
    return factors


def merged_factors(weights: Tensors) -> dict[str, Factors]:
    """What was merged before by layer; a matrix by its singular triplets, without those that are zero."""
    factors = {layer: (left, weights[f"delta_A/{layer}"]) for layer, left in select(weights, "delta_B").items()}
    for layer, matrix in select(weights, "dense").items():
        thin = _thin(matrix)
        factors[layer] = stacked([factors[layer], thin]) if layer in factors else thin
    return {layer: pair for layer, pair in factors.items() if pair[0].shape[1]}


def effective_factors(weights: Tensors, adapter: Adapter, layers: Layers) -> dict[str, Factors]:
    """(left, right) by layer, whose product is the whole update of the layer."""
    merged, trained = merged_factors(weights), trained_factors(weights, adapter, layers)
    both = {layer: stacked([merged[layer], own]) if layer in merged else own for layer, own in trained.items()}
    return {**merged, **both}


def effective_update(weights: Tensors, adapter: Adapter, layers: Layers, layer: str) -> Tensor:
    """(d_out, d_in) in fp64: the whole update of one layer."""
    update = torch.zeros(layers[layer], dtype=torch.float64)
    if f"delta_B/{layer}" in weights:
        update += weights[f"delta_B/{layer}"].double() @ weights[f"delta_A/{layer}"].double()
    if f"dense/{layer}" in weights:
        update += weights[f"dense/{layer}"].double()
    own = trained_factors(weights, adapter, {layer: layers[layer]}).get(layer)
    return update if own is None else update + own[0].double() @ own[1].double()


def _vera_left(weights: Tensors, layer: str) -> Tensor:
    """VeRA's own term and the merged past, over one A."""
    merged = weights.get(f"vera_M/{layer}")
    if f"vera_b/{layer}" not in weights:
        return weights[f"vera_M/{layer}"]
    own = left_factor(weights["vera"], weights[f"vera_b/{layer}"], weights[f"vera_d/{layer}"])
    return own if merged is None else own + merged


def _thin(matrix: Tensor) -> Factors:
    """Factors of the matrix, of its rank in fp32."""
    tall = matrix.shape[0] <= matrix.shape[1]
    identity = torch.eye(min(matrix.shape))
    pair = (identity, matrix) if tall else (matrix, identity)
    rank = int(torch.linalg.matrix_rank(matrix.double(), rtol=max(matrix.shape) * torch.finfo(torch.float32).eps))
    return split(pair, rank)[0]
