"""What a client measures on its data: Gram matrices of layer inputs.

A Gram is accumulated in fp64 in the form that is needed and no larger: a diagonal as a sum of squares, a projected Gram
`sum (A x)(A x)^T` from r-vectors, a full one only where it is asked for. What is measured of a value is the Gram of the
answers that it is a factor of, whatever part of a layer it is (see `merges.regmean`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import Batch, Data, Model, Round
from fedbraid.errors import UserError
from fedbraid.linalg import low_rank_plus_diagonal, shrink, to_triangle
from fedbraid.local.private import noisy_diagonals
from fedbraid.privacy.protection import Protection
from fedbraid.progress import track

FEATURES = "features"
"""The name of the head's input among the layers of a `GramOf`."""


@dataclass(frozen=True)
class GramOf:
    """One Gram to measure: of `layer`'s inputs, named for the value `key` that it will merge.

    `projection` (r x d_in) asks for the Gram of the projected inputs; several matrices project in turn. `form` is how
    it travels; `off_diagonal` scales what is not on the diagonal; `entrywise` multiplies the Gram, or its diagonal,
    entry by entry. `ones` appends a constant input, so that a bias is merged with its weight, and `ones="apart"` keeps
    the constant uncorrelated with the inputs, so that the bias is averaged.
    """

    key: str
    layer: str
    form: Literal["diagonal", "low_rank", "full"] = "full"
    projection: Tensor | tuple[Tensor, ...] = ()
    rank: int = 8
    off_diagonal: float = 1.0
    ones: Literal["no", "joined", "apart"] = "no"
    entrywise: Tensor | None = None


@dataclass(frozen=True)
class Passes:
    """How often and how the client's data passes through the model while Grams are measured."""

    count: int = 1
    augment: bool = False
    batch_size: int = 64
    protection: Protection | None = None
    """With it Grams carry noise; then all of them are diagonal, and every sample passes once."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"gram_passes = {self.count}: Grams need at least one pass over the data")


def measure_grams(
    model: Model, weights: Tensors, data: Data, round: Round, *, wanted: Sequence[GramOf], passes: Passes
) -> dict[str, Tensor]:
    """The wanted Grams under the model with `weights`, each in its travelling form (see `merges.grams`)."""
    with torch.no_grad():
        model.load(weights)
        model.train(False)
        if passes.protection:
            sums = _noisy(model, weights, data, round, wanted, passes.protection)
        else:
            sums = _sums(model, _passes(model, data, round, passes), wanted)
    return {key: tensor for gram in wanted for key, tensor in _travelling(gram, sums[gram.key]).items()}


def _noisy(
    model: Model, weights: Tensors, data: Data, round: Round, wanted: Sequence[GramOf], protection: Protection
) -> dict[str, Tensor]:
    """The sums of all samples with noise: one release."""
    full = next((gram.key for gram in wanted if gram.form != "diagonal"), None)
    if full:
        raise UserError(f"no private release is known for the Gram of {full!r}, which is not diagonal")
    return noisy_diagonals(
        data,
        round,
        received=weights,
        protection=protection,
        device=model.device,
        squares=lambda sample: _sums(model, [sample], wanted),
        widths=_widths(model, wanted),
    )


def _widths(model: Model, wanted: Sequence[GramOf]) -> dict[str, int]:
    """How many numbers each diagonal has, which a client without samples must know too."""
    found: dict[str, int] = {}
    for gram in wanted:
        chain = (gram.projection,) if isinstance(gram.projection, Tensor) else gram.projection
        width = model.width if gram.layer == FEATURES else model.layers[gram.layer][1]
        found[gram.key] = (len(chain[-1]) if chain else width) + (gram.ones != "no")
    return found


def _sums(model: Model, batches: Iterable[Batch], wanted: Sequence[GramOf]) -> dict[str, Tensor]:
    """The sums over all samples of these batches, by key."""
    sums: dict[str, Tensor] = {}
    of_layer: dict[str, list[GramOf]] = {}
    for gram in wanted:
        of_layer.setdefault(gram.layer, []).append(gram)

    def watch(layer: str, x: Tensor) -> None:
        for gram in of_layer[layer]:
            part = _contribution(gram, x)
            sums[gram.key] = sums[gram.key] + part if gram.key in sums else part

    with model.inputs_of([layer for layer in of_layer if layer != FEATURES], watch):
        for batch in batches:
            features = model.features(batch.inputs)
            if FEATURES in of_layer:
                watch(FEATURES, features)
    return sums


def _passes(model: Model, data: Data, round: Round, passes: Passes) -> Iterator[Batch]:
    batches = -(-len(data) // passes.batch_size) * passes.count
    draws = round.generator("grams", data.client) if passes.augment else None
    loop = (
        batch
        for _ in range(passes.count)
        for batch in data.batches(passes.batch_size, device=model.device, shuffle=draws, augment=passes.augment)
    )
    return track(loop, f"Grams of client {data.client}", batches)


def _contribution(gram: GramOf, x: Tensor) -> Tensor:
    """The part of one batch: (d,) for a diagonal, (d, d) otherwise, in fp64 on the model's device."""
    x = x.double()
    for matrix in (gram.projection,) if isinstance(gram.projection, Tensor) else gram.projection:
        x = x @ matrix.to(x.device, torch.float64).T
    if gram.ones != "no":
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    return x.square().sum(0) if gram.form == "diagonal" else x.T @ x


def _travelling(gram: GramOf, total: Tensor) -> Mapping[str, Tensor]:
    total = total.cpu()
    if gram.entrywise is not None:
        total = total * gram.entrywise.cpu().double()
    if gram.form == "diagonal":
        return {f"diagonal/{gram.key}": total}
    if gram.ones == "apart":
        total[-1, :-1] = 0
        total[:-1, -1] = 0
    total = shrink(total, gram.off_diagonal)
    if gram.form == "full":
        return {f"triangle/{gram.key}": to_triangle(total)}
    vectors, values, diagonal = low_rank_plus_diagonal(total, gram.rank)
    return {f"vectors/{gram.key}": vectors, f"values/{gram.key}": values, f"diagonal/{gram.key}": diagonal}
