"""The form of an honest update, found by computing one.

No method declares the names and shapes of what its clients send: the server performs a client's step itself, on two
samples of noise that the backbone can read, and looks at what comes out. It costs one step of training, changes nothing
of the run, and holds for methods that the package does not know.

A rehearsed client trains for one epoch whatever the setting: a generator that has passed over the samples once finds
none the second time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import IGNORED, Batch, ClientId, ImageInput, Model, PromptInput, Round, Task, TextInput
from fedbraid.errors import RunError, UserError
from fedbraid.progress import shown_on
from fedbraid.runtimes.client import Work, computed

SAMPLES = 2
"""Statistics of a batch need two."""
TEXT, ANSWER = "a sample of no meaning", "none"


@dataclass(frozen=True)
class Form:
    """Names, types and shapes of what a client sends, as they are on the wire."""

    client: ClientId
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]

    @property
    def bytes(self) -> int:
        """The size of the numbers alone."""
        return sum(dtype.itemsize * torch.Size(shape).numel() for dtype, shape in self.tensors.values())

    def of(self, client: ClientId) -> Form:
        """The same of another client: where names say `client/<id>`, they say whose they are."""
        if client == self.client:
            return self
        return Form(client, {_renamed(name, self.client, client): kind for name, kind in self.tensors.items()})


def rehearse(work: Work, client: ClientId, received: Tensors, round: Round) -> Form:
    """The form of this client's update in the round.

    Raises `RunError` where the method's step cannot be performed on noise, and `UserError` where it says what is wrong.
    """
    device = work.model.device
    cuda = [device.index or 0] if device.type == "cuda" else []
    try:
        with shown_on(None), torch.random.fork_rng(devices=cuda):
            data = work.method.phase(round).data(_Party(client, work.model), round.task)
            sent, _ = computed(work, data, received, round)
    except UserError:
        raise
    except Exception as error:  # a method from outside may do anything with samples that are none
        raise RunError(
            f"{round}: the form of client {client}'s update cannot be found on samples of noise "
            f"({type(error).__name__}: {error}); set gate.check = false to run without checking updates"
        ) from error
    return Form(client, {name: (work.codec.on_wire(value), tuple(value.shape)) for name, value in sent.items()})


def _renamed(name: str, old: ClientId, new: ClientId) -> str:
    spelled = "|".join(re.escape(one) for one in {quote(old, safe=""), old})
    return re.sub(rf"(^|/)client/(?:{spelled})(?=/|$)", lambda found: f"{found[1]}client/{quote(new, safe='')}", name)


@dataclass(frozen=True)
class _Party:
    """A client that holds noise, of the first and the last class of whatever it is asked for."""

    id: ClientId
    model: Model

    def train(self, task: Task) -> Noise:
        return Noise(self.id, self.model, task.classes)

    def test(self, task: Task) -> Noise:
        return Noise(self.id, self.model, range(task.seen))


class Noise:
    """`core.Data` of `SAMPLES` samples, without memory."""

    def __init__(self, client: ClientId, model: Model, classes: range) -> None:
        self.client = client
        self.memory: Tensors = {}
        self.ids = torch.arange(SAMPLES)
        self._labels = torch.tensor([classes[0], classes[-1]])
        self._inputs = _inputs(model)
        self._passed: torch.Generator | None = None

    def __len__(self) -> int:
        return SAMPLES

    def remembering(self, memory: Tensors) -> Noise:  # noqa: ARG002 (a rehearsal has none)
        return self

    def recall(self, ids: Tensor, *, device: torch.device) -> Batch:
        return self._batch(ids, device)

    def batches(
        self,
        size: int,
        *,
        device: torch.device,
        shuffle: torch.Generator | None = None,
        augment: bool = False,  # noqa: ARG002 (noise stays noise)
    ) -> Iterator[Batch]:
        if shuffle is not None and shuffle is self._passed:
            return
        self._passed = shuffle
        for rows in self.ids.split(size):
            yield self._batch(rows, device)

    def _batch(self, rows: Tensor, device: torch.device) -> Batch:
        inputs = {name: value[rows].to(device) for name, value in self._inputs.items()}
        numbers = torch.zeros(len(rows), device=device)
        return Batch(inputs, self._labels[rows].to(device), numbers, ((ANSWER,),) * len(rows))


def _inputs(model: Model) -> dict[str, Tensor]:
    """What the backbone reads of `SAMPLES` samples."""
    reads = model.input
    if isinstance(reads, ImageInput):
        shape = (SAMPLES, reads.channels, reads.size, reads.size)
        return {reads.name: torch.randn(shape, generator=torch.Generator().manual_seed(0))}
    if isinstance(reads, TextInput):
        return dict(reads.tokenize([TEXT] * SAMPLES))
    return _prompts(reads)


def _prompts(reads: PromptInput) -> dict[str, Tensor]:
    [(prompt, answer)] = reads.encode([TEXT], [ANSWER], False)
    prompt = reads.cut(prompt, max(reads.length - len(answer), 1))
    return _repeated(
        {
            "input_ids": [*prompt, *answer],
            "attention_mask": [1] * (len(prompt) + len(answer)),
            "labels": [IGNORED] * len(prompt) + list(answer),
        }
    )


def _repeated(row: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    return {name: torch.tensor(values).repeat(SAMPLES, 1) for name, values in row.items()}
