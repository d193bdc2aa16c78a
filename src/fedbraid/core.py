"""The vocabulary of the package: task, round, state, phase, method, runtime, outcome, event.

A method is a mapping of phases; a phase is one kind of communication round; a runtime takes the sum of a round over
its clients. Everything here is plain data or a protocol, so a method, a runtime and the engine know of each other only
through this file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from fedbraid.algebra import Statistic, Tensors

ClientId = str
Text: TypeAlias = "str | tuple[str, str]"
"""A text, or a pair of texts that is judged as one."""


@dataclass(frozen=True)
class Task:
    """One step of the stream: it brings the classes `offsets[index] .. offsets[index + 1] - 1`.

    Classes are numbered by their place in the stream, so tasks may differ in size.
    """

    index: int
    offsets: tuple[int, ...]

    @property
    def classes(self) -> range:
        """The classes that this task brings."""
        return range(self.offsets[self.index], self.offsets[self.index + 1])

    @property
    def seen(self) -> int:
        """The number of classes of this task and all before it."""
        return self.offsets[self.index + 1]

    @property
    def last(self) -> bool:
        return self.index == len(self.offsets) - 2


@dataclass(frozen=True)
class Round:
    """One communication round as plain data: it travels to the clients."""

    task: Task
    phase: str
    index: int
    seed: int

    def derive(self, purpose: str, client: ClientId = "") -> int:
        """The seed of one use of randomness: a function of (seed, task, phase, round, client, purpose)."""
        text = repr((self.seed, self.task.index, self.phase, self.index, client, purpose))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    def generator(self, purpose: str, client: ClientId = "") -> torch.Generator:
        """A generator of its own for one use of randomness."""
        return torch.Generator().manual_seed(self.derive(purpose, client))

    def __str__(self) -> str:
        return f"task {self.task.index}, {self.phase} round {self.index}"


@dataclass(frozen=True)
class State:
    """What a run consists of: `shared` is broadcast, `server` never leaves the server."""

    shared: Tensors = field(default_factory=dict[str, Tensor])
    server: Tensors = field(default_factory=dict[str, Tensor])


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


class Model(Protocol):
    """A backbone with an adapter and a head, whose tuned values are those loaded last."""

    @property
    def device(self) -> torch.device: ...
    @property
    def input(self) -> ImageInput | TextInput | PromptInput:
        """What the backbone reads."""
        ...

    @property
    def width(self) -> int:
        """The number of features that the head reads."""
        ...

    @property
    def layers(self) -> Mapping[str, tuple[int, int]]:
        """The linear layers that the adapter tunes: name -> (d_out, d_in)."""
        ...

    def fresh(self, generator: torch.Generator) -> Tensors:
        """First values of what the adapter tunes."""
        ...

    def fresh_head(self, task: Task, generator: torch.Generator) -> Tensors:
        """First values of what predicts the task's classes, `head/<task>`; nothing for a model that writes text."""
        ...

    def load(self, tensors: Tensors) -> None:
        """Makes these the tuned values; a low-rank term that is missing is inactive."""
        ...

    def parameters(self, kinds: Sequence[str]) -> Mapping[str, torch.nn.Parameter]:
        """The parameters behind the loaded values of these kinds, which alone require gradients now."""
        ...

    def values(self, kinds: Sequence[str]) -> dict[str, Tensor]:
        """Copies on the CPU of the loaded values of these kinds."""
        ...

    def train(self, mode: bool = True) -> None:
        """Dropout on or off."""
        ...

    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(n, width), what the head reads."""
        ...

    def logits(self, features: Tensor) -> Tensor:
        """(n, classes of all loaded heads)."""
        ...

    def penalty(self) -> Tensor:
        """What the adapter adds to the loss of the last forward pass: zero for all but prompts."""
        ...

    def inputs_of(self, layers: Sequence[str], watch: Callable[[str, Tensor], None]) -> AbstractContextManager[None]:
        """Calls `watch(layer, x)` with each layer's input, (tokens, d_in), on every forward pass inside."""
        ...


class Phase(Protocol):
    """One kind of communication round: clients lift updates into statistics, the server solves the sum."""

    @property
    def rounds(self) -> int: ...
    @property
    def tasks(self) -> Callable[[Task], bool]:
        """In which tasks it has these rounds."""
        ...

    @property
    def evaluated(self) -> bool:
        """Whether the model after such a round is one to evaluate."""
        ...

    @property
    def cohort(self) -> Callable[[Sequence[ClientId], Round], Sequence[ClientId]]:
        """Who takes part; empty for a step of the server alone, whose sum is `ZERO`."""
        ...

    @property
    def data(self) -> Callable[[Client, Task], Data]:
        """Which of a client's samples the round reads."""
        ...

    def client_update(self, model: Model, shared: Tensors, data: Data, round: Round) -> Tensors: ...
    def lift(self, shared: Tensors, update: Tensors, round: Round) -> Statistic: ...
    def watch(self, shared: Tensors, update: Tensors, round: Round) -> Statistic:
        """What the server notes for the report of an update that it sees by itself; nothing under a secure sum."""
        ...

    def figures(self, total: Statistic, watched: Statistic) -> Mapping[str, Any]:
        """Numbers for the report: of the sum, and of the sum of what was noted. Plain data."""
        ...

    def server_update(self, model: Model, state: State, total: Statistic, round: Round) -> State: ...


@dataclass(frozen=True)
class Method:
    """A named sentence of phases, run in order for every task.

    `predicting(shared)` is what the model loads to predict; `evaluate` counts right answers with it.
    """

    name: str
    phases: Mapping[str, Phase]
    evaluate: Phase
    predicting: Callable[[Tensors], Tensors]

    def phase(self, round: Round) -> Phase:
        return self.evaluate if round.phase == EVALUATE else self.phases[round.phase]


EVALUATE = "evaluate"
"""The name of the evaluation phase in a `Round`."""

KEEP = "keep"
"""The kind of what an update leaves at the client."""


@dataclass(frozen=True)
class Outcome:
    """What became of one round: the sum, who reported, who had no data for it, the cost."""

    total: Statistic
    reported: tuple[ClientId, ...] = ()
    idle: tuple[ClientId, ...] = ()
    bytes_up: Mapping[ClientId, int] = field(default_factory=dict[ClientId, int])
    bytes_down: Mapping[ClientId, int] = field(default_factory=dict[ClientId, int])
    seconds: float = 0.0
    values_up: Mapping[ClientId, int] = field(default_factory=dict[ClientId, int])
    """How many numbers each client sent."""
    watched: Statistic = field(default_factory=Statistic)
    """The sum of what the server noted of the updates."""


class Runtime(Protocol):
    """Where the clients are: the one distributed primitive is a sum over a cohort."""

    @property
    def clients(self) -> Sequence[ClientId]: ...
    @property
    def evaluators(self) -> Sequence[ClientId]:
        """Who holds test samples."""
        ...

    def sum(self, shared: Tensors, round: Round, cohort: Sequence[ClientId]) -> Outcome: ...


@dataclass(frozen=True)
class Event:
    """One finished round; `number` counts all rounds of the run from zero.

    `test` is the outcome of the evaluation where there was one; its total holds `correct` and `total` by task where
    classes are told, and the sums that `evaluation.scores` reads.
    `figures` are the phase's numbers for the report.
    """

    number: int
    round: Round
    state: State
    outcome: Outcome
    test: Outcome | None = None
    figures: Mapping[str, Any] = field(default_factory=dict[str, Any])
