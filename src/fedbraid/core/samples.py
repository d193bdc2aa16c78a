"""What a client holds: samples, batches of them, and what a backbone reads of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core.rounds import ClientId, Task

Text: TypeAlias = "str | tuple[str, str]"
"""A text, or a pair of texts that is judged as one."""


@dataclass(frozen=True)
class Batch:
    """Model inputs by argument name, first dimension the sample; labels are classes of the stream.

    Where a number is to be told, `targets` holds it; where a text is to be written, `answers` are the right ones.
    """

    inputs: Mapping[str, Tensor]
    labels: Tensor
    targets: Tensor | None = None
    answers: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class ImageInput:
    """What a vision backbone reads: (n, channels, size, size), normalised, under the argument name `name`."""

    size: int
    channels: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    name: str = "pixel_values"


@dataclass(frozen=True)
class TextInput:
    """What a text backbone reads: `tokenize` turns texts or pairs into equally long rows, padded on the right."""

    tokenize: Callable[[Sequence[Text]], Mapping[str, Tensor]]
    mask: str = "attention_mask"


IGNORED = -100
"""The label of a token that is not learned."""


@dataclass(frozen=True)
class PromptInput:
    """What a language model reads: token rows of at most `length`, each a prompt and the answer that follows it.

    Its inputs are `input_ids`, `attention_mask` and `labels`, which are `IGNORED` outside of answers.
    `encode(prompts, answers, chat)` gives both as lists of tokens, the answer's with the token that ends it; with
    `chat` in the model's own chat format. `padding` fills rows up, `start` opens a row where there is such a token.
    """

    encode: Callable[[Sequence[str], Sequence[str], bool], Sequence[tuple[list[int], list[int]]]]
    length: int
    padding: int
    start: int | None = None

    def cut(self, prompt: Sequence[int], room: int) -> list[int]:
        """The end of a prompt that fits into `room` tokens, after the token that opens it; all of it where it fits."""
        if len(prompt) <= room:
            return list(prompt)
        kept = [prompt[0]] if prompt[0] == self.start else []
        return [*kept, *prompt[len(prompt) - room + len(kept) :]]


class Data(Protocol):
    """The samples of one client in one task, and what the client has kept from earlier rounds.

    An update's `keep/<name>` tensors never leave the client: they are its `memory` in the next round, under `<name>`.
    """

    @property
    def client(self) -> ClientId: ...
    @property
    def memory(self) -> Tensors: ...
    @property
    def ids(self) -> Tensor:
        """Numbers by which the client finds these samples again, in the order of unshuffled batches."""
        ...

    def __len__(self) -> int: ...
    def recall(self, ids: Tensor, *, device: torch.device) -> Batch:
        """Samples of any task that this client has seen, by their numbers."""
        ...

    def remembering(self, memory: Tensors) -> Data:
        """The same samples with this memory."""
        ...

    def batches(
        self,
        size: int,
        *,
        device: torch.device,
        shuffle: torch.Generator | None = None,
        augment: bool = False,
    ) -> Iterator[Batch]:
        """Every sample once; in a random order where a generator is given."""
        ...


class Client(Protocol):
    """One party: its samples, by task. `test` holds the test samples of all tasks up to the one asked for."""

    def train(self, task: Task) -> Data: ...
    def test(self, task: Task) -> Data: ...
