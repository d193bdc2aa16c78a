"""Tiny federated worlds with what goes wrong in large ones: unequal tasks, missing classes, clients that sit out.

Three tasks of 3, 2 and 5 classes (digits), or 2, 1 and 3 (sentences, prompts), and three clients: `a` never sees class
1, `b` has samples of the first task alone, `c` has the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedbraid.core import Task
from fedbraid.data import Dataset, Partition, Party, Stream, Table, load, make_clients, make_stream
from fedbraid.local.generation import Written
from fedbraid.local.objectives import next_token
from fedbraid.models import AdaptedModel, Adapter, LanguageModel, load_backbone, load_causal
from fedbraid.models.torchvision import make_torchvision_importable
from fedbraid.testing.language import prompts
from fedbraid.testing.words import WORDS, sentence

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@dataclass(frozen=True)
class World:
    """A data set as a stream over clients; `backbone` names the model that reads it."""

    dataset: Dataset
    stream: Stream
    clients: Mapping[str, Party]
    evaluators: Mapping[str, Party]
    backbone: str

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.stream.tasks

    @property
    def learned(self) -> dict[str, Any]:
        """What clients train on and what is counted, where it is not that of classes: parts of a `Setting`."""
        return {"objective": next_token, "exam": Written(max_new_tokens=4)} if self._writes else {}

    def model(self, adapter: Adapter) -> AdaptedModel | LanguageModel:
        """A fresh model of this world."""
        if self._writes:
            return LanguageModel(load_causal(self.backbone), adapter)
        return AdaptedModel(load_backbone(self.backbone), adapter)

    @property
    def _writes(self) -> bool:
        return self.dataset.modality == "language"


def image_world(*, joined: bool = False, without_task: int | None = None) -> World:
    """Digits; with `joined` one client holds all of one task, and `without_task` is a task that nobody has data of."""
    return _world(load("digits", train_per_class=8, test_per_class=3), (3, 2, 5), "tiny", joined, without_task)


def text_world(folder: Path, *, joined: bool = False, without_task: int | None = None) -> World:
    """Sentences, for the BERT that `random_bert` wrote to the folder."""
    return _world(_sentences(), (2, 1, 3), str(folder), joined, without_task)


def language_world(folder: Path, *, joined: bool = False, without_task: int | None = None) -> World:
    """Prompts with answers, for the Llama that `random_llama` wrote to the folder."""
    return _world(prompts(), (2, 1, 3), str(folder), joined, without_task)


def random_bert(folder: Path) -> Path:
    """Writes a BERT of two layers with random weights, and its tokenizer."""
    make_torchvision_importable()
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """Writes a tokenizer that knows `WORDS`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    pieces = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=pieces, **names).save_pretrained(folder)


def _world(dataset: Dataset, sizes: Sequence[int], backbone: str, joined: bool, without_task: int | None) -> World:
    stream = make_stream(sum(sizes), sizes=sizes)
    stream = stream.joined() if joined else stream
    labels = stream.place(dataset.train.labels).tolist()
    absent = range(*stream.offsets[without_task : without_task + 2]) if without_task is not None else range(0)
    held = [i for i, label in enumerate(labels) if label not in absent]
    shares = {"a": held} if joined else _shares(held, labels, sizes[0])
    partition = Partition("own", dataset.fingerprint, len(dataset.train), {k: tuple(v) for k, v in shares.items()})
    reads = load_causal(backbone).input if dataset.modality == "language" else load_backbone(backbone).input
    clients, evaluators = make_clients(dataset, stream, partition, reads)
    return World(dataset, stream, clients, evaluators, backbone)


def _shares(held: Sequence[int], labels: Sequence[int], first: int) -> dict[str, list[int]]:
    a = [i for i in held if labels[i] != 1][::2]
    b = [i for i in held if labels[i] < first and i not in a][::2]
    return {"a": a, "b": b, "c": [i for i in held if i not in a and i not in b]}


def _sentences() -> Dataset:
    """Six classes of short texts: each has its own two words among others."""
    draws = torch.Generator().manual_seed(0)
    tables: list[Table] = []
    for count in (8, 3):
        labels = torch.arange(6).repeat_interleave(count)
        texts = [sentence(label, draws) for label in labels.tolist()]
        tables.append(Table(labels, texts=tuple(texts)))
    fingerprint = hashlib.sha256(repr([table.texts for table in tables]).encode()).hexdigest()
    train, test = tables
    return Dataset("sentences", "text", tuple(f"class {c}" for c in range(6)), train, test, fingerprint, len(train))
