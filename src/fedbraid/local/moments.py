"""Moments of features: sums from which class means, Gaussians and ridge heads follow.

All are taken on the model as it is, without augmentation, and accumulate in fp64.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import Data, Model, Round
from fedbraid.linalg import to_triangle
from fedbraid.progress import track
from fedbraid.quantities import GRAM, MOMENT, SAMPLES, Gives, placed

BATCH = 128
_PART: Gives = {"count": SAMPLES, "gram": GRAM, "product": MOMENT}
RIDGE_MOMENTS: Gives = {**placed("fit", _PART), **placed("held", _PART)}
"""What `ridge_moments` gives."""


def class_moments(model: Model, weights: Tensors, data: Data, round: Round, *, second: bool) -> dict[str, Tensor]:
    """Of every class of the task, in order: `count` (classes), `first` = sum f (classes x d), and `second`.

    `second` is sum f f^T as triangles (classes x d(d+1)/2), where it is asked for.
    """
    classes = round.task.classes
    count = torch.zeros(len(classes), dtype=torch.float64)
    first = torch.zeros(len(classes), model.width, dtype=torch.float64)
    grams: dict[int, Tensor] = {}
    for features, labels in _features(model, weights, data, round):
        hot = _one_hot(labels - classes.start, len(classes))
        count += hot.sum(1)
        first += hot @ features
        for c in labels.unique().tolist() if second else ():
            rows = features[labels == c]
            grams[c - classes.start] = grams.get(c - classes.start, 0) + rows.T @ rows
    if not second:
        return {"count": count, "first": first}
    zero = torch.zeros(model.width, model.width, dtype=torch.float64)
    triangles = [to_triangle(grams.get(c, zero)) for c in range(len(classes))]
    return {"count": count, "first": first, "second": torch.stack(triangles)}


def ridge_moments(model: Model, weights: Tensors, data: Data, round: Round, *, held_out: float) -> dict[str, Tensor]:
    """Sums for a ridge head (see `merges.ridge`), of two parts of the samples: `fit/...` and `held/...`.

    Of each part `count`, `gram` (a triangle) and `product/<task>` (classes of the task x d), with a constant 1 as last
    feature. The second part is a share `held_out` of the samples, drawn anew for every task; none where it is zero.
    """
    classes = round.task.classes
    draws = torch.rand(len(data), generator=round.generator("held out", data.client))
    sums: dict[str, Tensor] = {}
    done = 0
    for features, labels in _features(model, weights, data, round):
        f = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
        held = draws[done : done + len(f)] < held_out
        done += len(f)
        for part, rows in (("fit", ~held), ("held", held)) if held_out else (("fit", ~held),):
            hot = _one_hot(labels[rows] - classes.start, len(classes))
            _add(sums, f"{part}/count", rows.sum().double())
            _add(sums, f"{part}/gram", f[rows].T @ f[rows])
            _add(sums, f"{part}/product/{round.task.index}", hot @ f[rows])
    return {key: to_triangle(value) if key.endswith("/gram") else value for key, value in sums.items()}


def _add(sums: dict[str, Tensor], key: str, value: Tensor) -> None:
    sums[key] = sums[key] + value if key in sums else value


def _features(model: Model, weights: Tensors, data: Data, round: Round) -> Iterator[tuple[Tensor, Tensor]]:
    """(features in fp64, labels) of every batch, on the CPU."""
    with torch.no_grad():
        model.load(weights)
        model.train(False)
        batches = data.batches(BATCH, device=model.device)
        for batch in track(batches, f"features of client {data.client}, {round}", -(-len(data) // BATCH)):
            yield model.features(batch.inputs).double().cpu(), batch.labels.cpu()


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    """(classes, n) in fp64."""
    return (torch.arange(classes)[:, None] == labels).double()
