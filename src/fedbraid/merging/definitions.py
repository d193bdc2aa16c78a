"""What each rule is by definition, entry by entry and without any of the algebra that the rules use.

The certificate holds what was written against this. A matrix is given by its rows, so that the large ones are never
whole in memory; where the definition needs all entries at once, as the thresholds of TIES do, one layer is dense.
"""

# torch.linalg carries no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fedbraid.low_rank import Factors
from fedbraid.merging.layer import Inputs, Layer
from fedbraid.merging.rules import Options, keep_mask

Rows = Callable[[slice], Tensor]
"""Some rows of a (d_out x d_in) matrix, in fp64."""


def definition(rule: str, layer: Layer, options: Options) -> Rows:
    """The rows of what the rule of that name gives for the layer."""
    if rule in ("regmean", "lorm") and layer.inputs is not None:
        return _least_squares(layer, layer.inputs, options.ridge)
    if rule == "factors":
        return product_of_means(layer)
    if rule == "ties":
        return _rows_of(_trimmed_and_elected(layer, options.keep))
    if rule == "dare":
        return _rows_of(_thinned(layer, options))
    return mean_of_updates(layer)


def mean_of_updates(layer: Layer) -> Rows:
    """sum_i p_i B_i A_i, one update after the other."""

    def rows(some: slice) -> Tensor:
        result = torch.zeros(len(range(*some.indices(layer.shape[0]))), layer.shape[1], dtype=torch.float64)
        for (left, right), weight in zip(layer.pairs, layer.weights.tolist(), strict=True):
            result.addmm_(left[some].double(), right.double(), alpha=weight)
        return result

    return rows


def product_of_means(layer: Layer) -> Rows:
    """(sum_i p_i B_i)(sum_i p_i A_i), a column of the mean counting as zero where an adapter does not have it."""
    rank = max(right.shape[0] for _, right in layer.pairs)
    lefts = torch.zeros(layer.shape[0], rank, dtype=torch.float64)
    rights = torch.zeros(rank, layer.shape[1], dtype=torch.float64)
    for (left, right), weight in zip(layer.pairs, layer.weights.tolist(), strict=True):
        lefts[:, : left.shape[1]] += weight * left
        rights[: right.shape[0]] += weight * right
    return rows_of_product((lefts, rights))


def linear_of_peft(layer: Layer, scales: list[float]) -> Factors | None:
    """What `add_weighted_adapter(combination_type="linear")` makes of the layer; None where the ranks differ.

    It adds up `sqrt(p_i s_i) B_i` and, apart from these, `sqrt(p_i s_i) A_i`, for the adapters that have the layer;
    `scales` are the `s_i`, which the pairs hold inside `A_i`.
    """
    held = [i for i, (_, right) in enumerate(layer.pairs) if right.shape[0]]
    if len({layer.pairs[i][1].shape[0] for i in held}) != 1:
        return None
    lefts = [layer.pairs[i][0] * math.sqrt(layer.weights[i] * abs(scales[i])) for i in held]
    # The pairs hold s_i A_i, and the sign of s_i belongs to one factor only.
    rights = [layer.pairs[i][1] * (math.sqrt(layer.weights[i] / abs(scales[i])) if scales[i] else 0.0) for i in held]
    return torch.stack(lefts).sum(0), torch.stack(rights).sum(0)


def rows_of_product(factors: Factors) -> Rows:
    """The rows of `left @ right`."""
    left, right = factors
    return lambda some: left[some].double() @ right.double()


def norms(shape: tuple[int, int], matrices: Callable[[slice], Sequence[Tensor]]) -> list[float]:
    """Frobenius norms of several matrices, some rows of all of them at a time."""
    step = max(2**22 // shape[1], 1)
    blocks = [slice(start, start + step) for start in range(0, shape[0], step)]
    squares = torch.tensor([[rows.square().sum() for rows in matrices(some)] for some in blocks], dtype=torch.float64)
    return squares.sum(0).sqrt().tolist()


def difference(one: Rows, other: Rows) -> Rows:
    """The rows of one less those of the other."""
    return lambda some: one(some) - other(some)


def _rows_of(matrix: Tensor) -> Rows:
    return lambda some: matrix[some]


def _dense(pair: Factors) -> Tensor:
    return pair[0].double() @ pair[1].double()


def _trimmed_and_elected(layer: Layer, keep: float) -> Tensor:
    """TIES on numpy arrays: sort, cut, vote, average."""
    weights = layer.weights.tolist()
    votes = np.sign(sum(weight * _trimmed(pair, keep) for pair, weight in zip(layer.pairs, weights, strict=True)))
    agreeing, voters = np.zeros(layer.shape), np.zeros(layer.shape)
    for pair, weight in zip(layer.pairs, weights, strict=True):
        change = _trimmed(pair, keep)
        agrees = (np.sign(change) == votes) & (votes != 0)
        agreeing += weight * change * agrees
        voters += weight * agrees
    return torch.from_numpy(agreeing / np.where(voters > 0, voters, 1))


def _trimmed(pair: Factors, keep: float) -> np.ndarray:
    change = _dense(pair).numpy()
    cut = min(round((1 - keep) * change.size), change.size - 1)
    return np.where(np.abs(change) >= np.sort(np.abs(change), axis=None)[cut], change, 0)


def _thinned(layer: Layer, options: Options) -> Tensor:
    """DARE: the entries that are kept, each scaled up, then the mean."""
    mean = torch.zeros(layer.shape, dtype=torch.float64)
    for number, (pair, weight) in enumerate(zip(layer.pairs, layer.weights, strict=True)):
        kept = keep_mask(layer.name, number, layer.shape, options)
        mean += weight * torch.where(kept, _dense(pair) / options.keep, 0.0)
    return mean


def _least_squares(layer: Layer, inputs: Inputs, ridge: float) -> Rows:
    """The normal equations of the dense updates, row by row, by LU where the rule takes a Cholesky of the factors."""
    gram = torch.diag(inputs.gram) if inputs.gram.ndim == 1 else inputs.gram
    lam = ridge * gram.diagonal().mean()
    if gram.diagonal().sum() == 0:
        return mean_of_updates(layer)
    mean = mean_of_updates(layer)
    seen = gram.diagonal() + lam > 0
    # A direction that no input has, without a ridge: its row becomes that of the identity, and its answer the mean.
    lu = torch.linalg.lu_factor(gram + torch.diag(torch.where(seen, lam, 1.0)))

    def rows(some: slice) -> Tensor:
        product = torch.zeros(1, dtype=torch.float64)
        for (left, _), right in zip(layer.pairs, inputs.products, strict=True):
            product = product + left[some].double() @ right
        average = mean(some)
        return torch.linalg.lu_solve(*lu, product + torch.where(seen, lam, 1.0) * average, left=False)

    return rows
