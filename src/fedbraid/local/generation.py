"""The exam of a language model: it writes an answer to every prompt of the test samples.

Answers are written by the likeliest token, or by beams, never by chance; prompts of similar length are written
together, the longest first. What is counted adds up over clients, and `fedbraid.evaluation.scores` makes numbers of the
sum; the scores of a corpus, such as BLEU, are those of each client's samples, weighted by their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fedbraid.algebra import Tensors, prefix
from fedbraid.core import IGNORED, Batch, Data, Model
from fedbraid.errors import UserError
from fedbraid.local.exams import RIGHT
from fedbraid.local.text_scores import is_right, measure
from fedbraid.models.language import LanguageModel, next_tokens
from fedbraid.progress import track
from fedbraid.quantities import RESULT, RESULTS, TOKENS, Gives


@dataclass(frozen=True)
class Written:
    """`correct` and `total` by group of categories, `score/<name>` times the number of samples, `score_samples`.

    `match` says when an answer is right, `scores` are measured beside (see `local.text_scores`). `token_loss` is the
    loss of the first right answers, summed over their `tokens`. `categories` names what stands at each place of the
    stream: `right/<category>` of `asked/<category>` samples are right.
    """

    match: Literal["text", "final", "option"] = "text"
    scores: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    max_new_tokens: int = 128
    batch_size: int = 16
    beams: int = 1

    def gives(self) -> Gives:
        counts = dict.fromkeys(("right", "asked", "score_samples"), RESULTS)
        return {**RIGHT, **counts, **dict.fromkeys(("score", "token_loss"), RESULT), "tokens": TOKENS}

    def __call__(self, model: Model, weights: Tensors, data: Data, *, offsets: Sequence[int]) -> dict[str, Tensor]:
        if not isinstance(model, LanguageModel):
            raise UserError(f"answers can be written by a language model alone, not by a {type(model).__name__}")
        model.load(weights)
        model.train(False)
        batches = list(data.batches(self.batch_size, device=torch.device("cpu")))
        losses = _losses(model, batches)
        written = self._written(model, [prompt for batch in batches for prompt in _prompts(batch)])
        answers = [right for batch in batches for right in batch.answers]
        labels = torch.cat([batch.labels for batch in batches])
        pairs = zip(written, answers, strict=True)
        correct = torch.tensor([is_right(text, right, self.match) for text, right in pairs])
        found = measure(self.scores, written, answers)
        sums = {name: torch.tensor(value * len(labels), dtype=torch.float64) for name, value in found.items()}
        groups = torch.bucketize(labels, torch.tensor(offsets[1:-1], dtype=torch.int64), right=True)
        return {
            "correct": torch.bincount(groups[correct], minlength=len(offsets) - 1),
            "total": torch.bincount(groups, minlength=len(offsets) - 1),
            "score_samples": torch.tensor(len(labels), dtype=torch.float64),
            **prefix(sums, "score"),
            **losses,
            **self._by_category(labels, correct),
        }

    def _written(self, model: LanguageModel, prompts: Sequence[list[int]]) -> list[str]:
        """What the model writes to each prompt, in the order of the prompts."""
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        parts = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        found: dict[int, str] = {}
        for part in track(parts, "writing answers"):
            texts = model.write(
                [prompts[place] for place in part], max_new_tokens=self.max_new_tokens, beams=self.beams
            )
            found |= zip(part, texts, strict=True)
        return [found[place] for place in range(len(prompts))]

    def _by_category(self, labels: Tensor, correct: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for place in labels.unique().tolist() if self.categories else ():
            name, here = self.categories[place], labels == place
            found |= {f"right/{name}": correct[here].sum(), f"asked/{name}": here.sum()}
        return found


def _losses(model: LanguageModel, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """`token_loss`, the sum over all tokens that are to be told, and their number `tokens`."""
    total, tokens = 0.0, 0
    with torch.no_grad():
        for batch in track(batches, "loss of answers"):
            inputs = {name: value.to(model.device) for name, value in batch.inputs.items()}
            right = next_tokens(inputs)
            total += F.cross_entropy(model.logits(model.features(inputs)), right, reduction="sum").item()
            tokens += len(right)
    return {"token_loss": torch.tensor(total, dtype=torch.float64), "tokens": torch.tensor(tokens)}


def _prompts(batch: Batch) -> list[list[int]]:
    """The tokens of each prompt, without its answer and without padding."""
    ids, mask, labels = (batch.inputs[name] for name in ("input_ids", "attention_mask", "labels"))
    asked = mask.bool() & (labels == IGNORED)
    return [row[kept].tolist() for row, kept in zip(ids, asked, strict=True)]
