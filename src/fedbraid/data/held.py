"""Data as a run holds them: samples and labels as tensors, in a table to train on and one to test on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import torch
from torch import Tensor

from fedbraid.core import Text
from fedbraid.data.decode import decoded
from fedbraid.data.rows import Rows


@dataclass(frozen=True)
class Table:
    """Samples with their classes: `images` is uint8 (n, channels, height, width), or `texts` holds n texts or pairs.

    `clients` names the owner of each sample where the data say so. `targets` holds n numbers where numbers are to be
    told; all samples are of one class then. `answers` holds the right answers to each text that is a prompt.
    """

    labels: Tensor
    images: Tensor | None = None
    texts: tuple[Text, ...] | None = None
    clients: tuple[str, ...] | None = None
    targets: Tensor | None = None
    answers: tuple[tuple[str, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A data set in memory; classes are numbered by `class_names`, `note` says what was decided for the user.

    `fingerprint` is a SHA-256 over class names, labels and samples: a partition holds for one fingerprint only.
    `scores` are what a model is measured by, the main one first.
    """

    name: str
    modality: str
    class_names: tuple[str, ...]
    train: Table
    test: Table
    fingerprint: str
    held: int
    """How many training samples there were to choose from: what is promised for each of them goes by this number."""
    note: str = ""
    scores: tuple[str, ...] = ("accuracy",)


def tables_of(modality: str, names: tuple[str, ...], train: Rows, test: Rows, stored_size: int) -> tuple[Table, Table]:
    """The rows to train on and those to test on, their classes numbered by `names`."""
    numbers = {name: number for number, name in enumerate(names)}
    labels = [torch.tensor([numbers[label] for label in rows.labels], dtype=torch.long) for rows in (train, test)]
    if modality == "language":
        return _of_prompts(labels[0], train), _of_prompts(labels[1], test)
    if modality == "text":
        return (
            Table(labels[0], texts=train.samples, clients=train.clients, targets=_targets(train)),
            Table(labels[1], texts=test.samples, clients=test.clients, targets=_targets(test)),
        )
    images = decoded(train.samples + test.samples, train.places + test.places, stored_size=stored_size)
    return (
        Table(labels[0], images=images[: len(train)], clients=train.clients, targets=_targets(train)),
        Table(labels[1], images=images[len(train) :], clients=test.clients, targets=_targets(test)),
    )


def _of_prompts(labels: Tensor, rows: Rows) -> Table:
    texts, answers = (tuple(getattr(prompt, part) for prompt in rows.samples) for part in ("text", "answers"))
    return Table(labels, texts=texts, clients=rows.clients, answers=answers)


def _targets(rows: Rows) -> Tensor | None:
    return None if rows.numbers is None else torch.tensor(rows.numbers, dtype=torch.float32)


def fingerprint_of(names: tuple[str, ...], *tables: Table) -> str:
    """A SHA-256 over class names, labels and samples."""
    digest = hashlib.sha256(json.dumps(names).encode())
    for table in tables:
        digest.update(table.labels.numpy().tobytes())
        if table.images is not None:
            digest.update(repr(tuple(table.images.shape)).encode())
            digest.update(table.images.numpy().data)
        digest.update(json.dumps(table.texts).encode())
        if table.targets is not None:
            digest.update(table.targets.numpy().tobytes())
        if table.answers is not None:
            digest.update(json.dumps(table.answers).encode())
    return digest.hexdigest()
