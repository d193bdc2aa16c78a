"""Exams: what is counted on test samples.

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
from fedbraid.quantities import ANSWERS, RESULT, RESULTS, Gives

BATCH = 128
RIGHT: Gives = {"correct": RESULTS, "total": RESULTS}
"""Right answers and samples, by group of classes."""


@dataclass(frozen=True)
class RightAnswers:
    """`correct` and `total` test samples by group of classes; group j is `offsets[j] .. offsets[j + 1] - 1`.

    Prediction is the largest logit over all classes seen, without task identity.
    """

    batch_size: int = BATCH

    def gives(self) -> Gives:
        return RIGHT

    def __call__(self, model: Model, weights: Tensors, data: Data, *, offsets: Sequence[int]) -> dict[str, Tensor]:
        groups = len(offsets) - 1
        correct, total = torch.zeros(groups, dtype=torch.int64), torch.zeros(groups, dtype=torch.int64)
        edges = torch.tensor(offsets[1:-1], dtype=torch.int64)
        for logits, batch in _answers(model, weights, data, self.batch_size):
            predicted, labels = logits.argmax(1).cpu(), batch.labels.cpu()
            group = torch.bucketize(labels, edges, right=True)
            total += torch.bincount(group, minlength=groups)
            correct += torch.bincount(group[predicted == labels], minlength=groups)
        return {"correct": correct, "total": total}


right_answers = RightAnswers()
"""The exam of a classification."""


@dataclass(frozen=True)
class Confusion:
    """Which class was told for which: `confusion` (true class x told class), with `correct` and `total` by group.

    Classes come numbered by their place in the stream; `order` gives the data set's number of the class at each place,
    by which the matrix is numbered, so that it does not depend on the stream.
    """

    order: tuple[int, ...]

    def gives(self) -> Gives:
        return {**RIGHT, "confusion": RESULTS}

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

    def gives(self) -> Gives:
        """Sums; every single answer where ranks need them."""
        return {"moment": RESULT, **(dict.fromkeys(("predicted", "truth"), ANSWERS) if self.ranks else {})}

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


def _answers(model: Model, weights: Tensors, data: Data, size: int = BATCH) -> Iterator[tuple[Tensor, Batch]]:
    """(logits in fp32, batch) of all samples."""
    with torch.no_grad():
        model.load(weights)
        model.train(False)
        for batch in track(data.batches(size, device=model.device), "evaluation", -(-len(data) // size)):
            yield model.logits(model.features(batch.inputs).float()), batch
