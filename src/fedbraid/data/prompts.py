"""Prompts with their right answers: how they are worded, turned into tokens and put into batches.

A row of tokens is a prompt and, right after it, its answer with the token that ends it; only the answer is learned.
Rows are never packed: each sample is a row of its own, and a batch is as long as its longest row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fedbraid.core import IGNORED, PromptInput
from fedbraid.errors import UserError

ONE_CLASS = "all"
"""The one class of prompts that are of no categories."""

OF_ANSWERS = ("accuracy", "bleu", "nist", "meteor", "meteor_stem", "rouge_l", "cider", "loss", "perplexity")
"""Scores of written answers (see `local.text_scores`)."""

CHAT = "chat"
"""The format that is the model's own."""

FORMATS: Mapping[str, tuple[str, str]] = {
    "lines": ("{prompt}\n", "{answer}"),
    "bars": ("{prompt} ||", " {answer}"),
    "alpaca": (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n{prompt}\n\n### Response:\n",
        "{answer}",
    ),
}
"""By name how a prompt is worded, and how the answer goes on after it."""


@dataclass(frozen=True)
class Prompt:
    """What a model is asked and its right answers, of which the first is learned."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Prompts:
    """Token rows of any length, one after another in `tokens`: row i ends before `ends[i]`.

    `asked` holds the length of each row's prompt, `cut` says how many prompts had to be cut.
    """

    tokens: Tensor
    ends: Tensor
    asked: Tensor
    padding: int
    cut: int

    def inputs(
        self,
        indices: Tensor,
        device: torch.device,
        augment: torch.Generator | None,  # noqa: ARG002 (prompts have no augmentation)
    ) -> dict[str, Tensor]:
        """`input_ids` padded on the right, `attention_mask`, and `labels`, which are `IGNORED` outside of answers."""
        ends = self.ends[indices]
        starts = torch.where(indices > 0, self.ends[indices - 1], 0)
        rows = [self.tokens[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        ids = pad_sequence(rows, batch_first=True, padding_value=self.padding).long()
        place = torch.arange(ids.shape[1])
        mask = place < (ends - starts)[:, None]
        answer = mask & (place >= self.asked[indices][:, None])
        inputs = {"input_ids": ids, "attention_mask": mask.long(), "labels": torch.where(answer, ids, IGNORED)}
        return {name: rows.to(device, non_blocking=True) for name, rows in inputs.items()}


def tokenized(
    texts: Sequence[str], answers: Sequence[Sequence[str]], input: PromptInput, *, template: str, where: str
) -> Prompts:
    """The rows of these prompts with the first of their answers; `where` names the table in messages.

    What is too long for the model loses the beginning of its prompt; an answer that is too long alone is a `UserError`.
    """
    rows = encoded(texts, [right[0] for right in answers], input, template=template)
    fitted = [_fitted(*row, input, f"{where} sample {number}") for number, row in enumerate(rows, start=1)]
    whole = [prompt + answer for prompt, (_, answer) in zip(fitted, rows, strict=True)]
    return Prompts(
        tokens=torch.tensor([token for row in whole for token in row], dtype=torch.int32),
        ends=torch.tensor([len(row) for row in whole]).cumsum(0),
        asked=torch.tensor([len(prompt) for prompt in fitted]),
        padding=input.padding,
        cut=sum(len(prompt) < len(row[0]) for prompt, row in zip(fitted, rows, strict=True)),
    )


def encoded(
    texts: Sequence[str], answers: Sequence[str], input: PromptInput, *, template: str
) -> Sequence[tuple[list[int], list[int]]]:
    """(tokens of the prompt, tokens of the answer with its end) of each, in the wording of `template`."""
    if template == CHAT:
        return input.encode(texts, answers, True)
    if template not in FORMATS:
        raise UserError(f"there is no wording {template!r} of prompts; known are {', '.join([*FORMATS, CHAT])}")
    before, after = FORMATS[template]
    prompts = [before.replace("{prompt}", text) for text in texts]
    return input.encode(prompts, [after.replace("{answer}", answer) for answer in answers], False)


def _fitted(prompt: list[int], answer: list[int], input: PromptInput, place: str) -> list[int]:
    """The end of the prompt that fits beside its answer, after the token that opens a row."""
    room = input.length - len(answer)
    if room < 2:
        raise UserError(
            f"{place}: its answer is {len(answer)} tokens long, which leaves no room for a prompt within "
            f"backbone.max_length = {input.length}; raise it, choose a model that reads more, or take the sample out"
        )
    return input.cut(prompt, room)
