"""The parties of a run: training clients with a share of the data each, one evaluator with the test samples.

Samples lie in memory once, images as uint8 and texts as token rows; a client holds indices into them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import Batch, ClientId, ImageInput, PromptInput, Task, Text, TextInput
from fedbraid.data.held import Dataset, Table
from fedbraid.data.partition import EVALUATOR, Partition
from fedbraid.data.prompts import tokenized
from fedbraid.data.streams import Stream
from fedbraid.data.transforms import check_augment, prepare
from fedbraid.errors import UserError

Answers = tuple[tuple[str, ...], ...]
"""The right answers to each sample of a table."""


class Samples(Protocol):
    """Samples in memory that can be turned into model inputs."""

    def inputs(self, indices: Tensor, device: torch.device, augment: torch.Generator | None) -> dict[str, Tensor]:
        """The inputs of these samples on the device, augmented where a generator is given."""
        ...


@dataclass(frozen=True)
class Images:
    """uint8 images of any size, prepared batch by batch on the device."""

    pixels: Tensor
    spec: ImageInput
    augment: str

    def inputs(self, indices: Tensor, device: torch.device, augment: torch.Generator | None) -> dict[str, Tensor]:
        """Augmented as `augment` names it, resized and normalised."""
        name = "none" if augment is None else self.augment
        pixels = self.pixels[indices].to(device, non_blocking=True)
        return {self.spec.name: prepare(pixels, self.spec, augment=name, generator=augment)}


@dataclass(frozen=True)
class NoSamples:
    """No samples: an empty table never reaches a tokenizer or a decoder, which want one sample at least."""

    def inputs(
        self,
        indices: Tensor,  # noqa: ARG002 (there are none)
        device: torch.device,  # noqa: ARG002
        augment: torch.Generator | None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class Texts:
    """Token rows padded on the right to one length; a batch is as long as its longest row."""

    rows: Mapping[str, Tensor]
    mask: str

    def inputs(
        self,
        indices: Tensor,
        device: torch.device,
        augment: torch.Generator | None,  # noqa: ARG002 (texts have no augmentation)
    ) -> dict[str, Tensor]:
        """The rows without the columns that are padding in all of them."""
        longest = max(int(self.rows[self.mask][indices].sum(1).max()), 1)
        return {name: rows[indices, :longest].to(device, non_blocking=True) for name, rows in self.rows.items()}


@dataclass(frozen=True)
class ClientData:
    """The samples of one client in one task; `labels` are those of the whole table, placed in the stream.

    So are `targets`, the numbers that are to be told, and `answers`, the texts to be written, where there are any.
    """

    client: ClientId
    samples: Samples
    labels: Tensor
    indices: Tensor
    memory: Tensors = field(default_factory=dict[str, Tensor])
    targets: Tensor | None = None
    answers: Answers = ()

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def ids(self) -> Tensor:
        """The samples' rows in the table."""
        return self.indices

    def recall(self, ids: Tensor, *, device: torch.device) -> Batch:
        """Samples of the table by their rows, not augmented."""
        return self._batch(self.samples.inputs(ids, device, None), ids, device)

    def remembering(self, memory: Tensors) -> ClientData:
        """The same samples with this memory."""
        return replace(self, memory=memory)

    def counts(self) -> dict[int, int]:
        """How many samples there are of each class that occurs, by position in the stream."""
        classes, counts = self.labels[self.indices].unique(return_counts=True)
        return dict(zip(classes.tolist(), counts.tolist(), strict=True))

    def batches(
        self,
        size: int,
        *,
        device: torch.device,
        shuffle: torch.Generator | None = None,
        augment: bool = False,
    ) -> Iterator[Batch]:
        """Every sample once; order and augmentation are drawn from `shuffle`."""
        if size < 1:
            raise UserError(f"the batch size is {size}; it must be 1 or more")
        if augment and shuffle is None:
            raise ValueError("augment=True needs the generator `shuffle`")
        order = self.indices
        if shuffle is not None:
            order = order[torch.randperm(len(order), generator=shuffle, device=shuffle.device).to(order.device)]
        for indices in order.split(size) if len(order) else ():
            inputs = self.samples.inputs(indices, device, shuffle if augment else None)
            yield self._batch(inputs, indices, device)

    def _batch(self, inputs: Mapping[str, Tensor], indices: Tensor, device: torch.device) -> Batch:
        targets = None if self.targets is None else self.targets[indices].to(device, non_blocking=True)
        answers = tuple(self.answers[i] for i in indices.tolist()) if self.answers else ()
        return Batch(inputs, self.labels[indices].to(device, non_blocking=True), targets, answers)


@dataclass(frozen=True)
class Party:
    """A client with training samples, or the evaluator with test samples: the other side is empty."""

    id: ClientId
    samples: Samples
    labels: Tensor
    train_indices: Tensor
    test_indices: Tensor
    targets: Tensor | None = None
    answers: Answers = ()

    def train(self, task: Task) -> ClientData:
        """The training samples of this task's classes; there may be none."""
        return self._within(self.train_indices, task.classes)

    def test(self, task: Task) -> ClientData:
        """The test samples of all classes seen up to this task."""
        return self._within(self.test_indices, range(task.seen))

    def _within(self, indices: Tensor, classes: range) -> ClientData:
        labels = self.labels[indices]
        held = indices[(labels >= classes.start) & (labels < classes.stop)]
        return ClientData(self.id, self.samples, self.labels, held, targets=self.targets, answers=self.answers)


def make_clients(
    dataset: Dataset,
    stream: Stream,
    partition: Partition,
    input: ImageInput | TextInput | PromptInput,
    *,
    augment: str = "none",
    template: str = "lines",
) -> tuple[dict[ClientId, Party], dict[ClientId, Party]]:
    """(training clients by id in order, evaluators): the one evaluator is "test", with all test samples.

    `template` is how prompts are worded (see `data.prompts`).
    """
    check_augment(augment)
    _check(dataset, partition)
    none = torch.empty(0, dtype=torch.int64)
    train, test = dataset.train, dataset.test
    samples, labels = _samples(dataset, train, input, augment, template), stream.place(train.labels)
    held = {client: torch.tensor(partition.clients[client], dtype=torch.long) for client in sorted(partition.clients)}
    clients = {
        client: Party(client, samples, labels, own, none, train.targets, train.answers or ())
        for client, own in held.items()
    }
    everything = torch.arange(len(test))
    tests, places = _samples(dataset, test, input, augment, template), stream.place(test.labels)
    return clients, {EVALUATOR: Party(EVALUATOR, tests, places, none, everything, test.targets, test.answers or ())}


def _check(dataset: Dataset, partition: Partition) -> None:
    if partition.fingerprint != dataset.fingerprint:
        raise UserError(f"the partition was drawn for another data set than {dataset.name}; draw it anew")
    if max((max(samples, default=-1) for samples in partition.clients.values()), default=-1) >= len(dataset.train):
        raise UserError(f"the partition holds samples that {dataset.name} does not have; draw it anew")


def _samples(
    dataset: Dataset, table: Table, input: ImageInput | TextInput | PromptInput, augment: str, template: str
) -> Samples:
    if isinstance(input, ImageInput) and table.images is not None:
        return Images(table.images, input, augment) if len(table) else NoSamples()
    if isinstance(input, PromptInput) and table.answers is not None:
        if not len(table):
            return NoSamples()
        where = f"{dataset.name}, {'training' if table is dataset.train else 'test'}"
        return tokenized(
            [str(text) for text in table.texts or ()], table.answers, input, template=template, where=where
        )
    if isinstance(input, TextInput) and table.texts is not None and table.answers is None:
        return _tokenized(table.texts, input) if len(table) else NoSamples()
    reads = {ImageInput: "images", TextInput: "texts", PromptInput: "prompts with answers"}[type(input)]
    raise UserError(
        f"{dataset.name} is {dataset.modality} data, but the backbone reads {reads}; "
        f"choose a backbone for {dataset.modality} data or another data set"
    )


def _tokenized(texts: tuple[Text, ...], input: TextInput) -> Texts:
    rows = dict(input.tokenize(texts))
    mask = rows.get(input.mask)
    if mask is None:
        raise UserError(f"the tokenizer gives {list(rows)}, but no {input.mask!r}; name its mask")
    if (mask[:, 1:] > mask[:, :-1]).any():
        raise UserError("the tokenizer pads on the left; set its padding side to the right")
    return Texts(rows, input.mask)
