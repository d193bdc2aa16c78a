"""Exams: what is counted on test samples where right answers alone do not say how good a model is.

What they return adds up over clients; `fedbraid.evaluation.scores` makes numbers of the sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fedbraid.algebra import Tensors, prefix
from fedbraid.core import Batch, Data, Model
from fedbraid.evaluation import moments
from fedbraid.local.objectives import targets
from fedbraid.progress import track

BATCH = 128


@dataclass(frozen=True)
class Confusion:
    """Which class was told for which: `confusion` (true class x told class), with `correct` and `total` by group.

    Classes come numbered by their place in the stream; `order` gives the data set's number of the class at each place,
    by which the matrix is numbered, so that it does not depend on the stream.
    """

    order: tuple[int, ...]

    def __call__(self, model: Model, weights: Tensors, data: Data, *, offsets: Sequence[int]) -> dict[str, Tensor]:
        size = len(self.order)
        placed = torch.zeros(size, size, dtype=torch.int64)
        for logits, batch in _answers(model, weights, data):
            pairs = batch.labels.cpu() * size + logits.argmax(1).cpu()
            placed += torch.bincount(pairs, minlength=size * size).reshape(size, size)
        edges = list(pairwise(offsets))
        right, seen = placed.diagonal(), placed.sum(1)
        counts = torch.zeros_like(placed)
        order = torch.tensor(self.order)
        counts[order[:, None], order] = placed
        return {
            "correct": torch.stack([right[start:stop].sum() for start, stop in edges]),
            "total": torch.stack([seen[start:stop].sum() for start, stop in edges]),
            "confusion": counts,
        }


@dataclass(frozen=True)
class Numbers:
    """How told numbers go with the true ones: sums for Pearson's correlation, and with `ranks` for Spearman's too.

    Ranks need every number: `predicted/<client>` and `truth/<client>` are one key a client, which a secure sum would
    not hide. Without ranks all of it adds up.
    """

    ranks: bool

    def __call__(
        self,
        model: Model,
        weights: Tensors,
        data: Data,
        *,
        offsets: Sequence[int],  # noqa: ARG002 (numbers have no classes)
    ) -> dict[str, Tensor]:
        answers = [(logits[:, 0].cpu(), targets(batch).cpu()) for logits, batch in _answers(model, weights, data)]
        predicted, truth = (torch.cat(parts) for parts in zip(*answers, strict=True))
        found = prefix(moments(predicted, truth), "moment")
        if self.ranks:
            found |= {f"predicted/{data.client}": predicted, f"truth/{data.client}": truth}
        return found


def _answers(model: Model, weights: Tensors, data: Data) -> Iterator[tuple[Tensor, Batch]]:
    """(logits in fp32, batch) of all samples."""
    with torch.no_grad():
        model.load(weights)
        model.train(False)
        for batch in track(data.batches(BATCH, device=model.device), "evaluation", -(-len(data) // BATCH)):
            yield model.logits(model.features(batch.inputs).float()), batch
