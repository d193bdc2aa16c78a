"""A dry run: the schema of an honest update, found by computing one.

A method declares what its names are (see `quantities`), and neither which there are of a kind nor their shapes: the
server performs a client's step itself, on two samples of noise that the backbone can read, and looks at what comes out.
It costs one step of training, changes nothing of the run, and holds for methods that the package does not know.

In a dry run a client trains for one epoch whatever the setting: a generator that has passed over the samples once finds
none the second time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote

import torch
from torch import Tensor

from fedbraid.algebra import ZERO, Statistic, Tensors
from fedbraid.core import (
    IGNORED,
    Batch,
    ClientId,
    ImageInput,
    Model,
    Phase,
    PromptInput,
    Round,
    State,
    Task,
    TextInput,
)
from fedbraid.errors import RunError, UserError
from fedbraid.progress import shown_on
from fedbraid.quantities import Gives
from fedbraid.runtimes.client import Work, computed
from fedbraid.wire import Entry, entries, misshapen, undeclared

SAMPLES = 2
"""Statistics of a batch need two."""
TEXT, ANSWER = "a sample of no meaning", "none"


@dataclass(frozen=True)
class UpdateSchema:
    """Names, types and shapes of what a client sends, as they are on the wire, and what they are declared to be."""

    client: ClientId
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
    gives: Gives

    @property
    def bytes(self) -> int:
        """The size of the numbers alone."""
        return sum(dtype.itemsize * torch.Size(shape).numel() for dtype, shape in self.tensors.values())

    def of(self, client: ClientId) -> UpdateSchema:
        """The same of another client: where names say `client/<id>`, they say whose they are."""
        if client == self.client:
            return self
        tensors = {_renamed(name, self.client, client): kind for name, kind in self.tensors.items()}
        return UpdateSchema(client, tensors, self.gives)


def dry_run(work: Work, client: ClientId, received: Tensors, round: Round) -> UpdateSchema:
    """The schema of this client's update in the round.

    Raises `RunError` where the method's step cannot be performed on noise, and `UserError` where it says what is wrong
    or sends what it does not declare.
    """
    sent = _sent(work, client, received, round)
    gives = work.gives(round)
    check_declared(sent, gives, f"method {work.method.name!r}, {round}")
    tensors = {name: (work.codec.on_wire(value), tuple(value.shape)) for name, value in sent.items()}
    return UpdateSchema(client, tensors, gives)


def check_method(work: Work, tasks: Sequence[Task]) -> None:
    """Dry runs of the first rounds of every phase in the first two tasks, before a run begins.

    Raises what `dry_run` does: so a method that sends what it does not declare is found before anything is trained.
    """
    for _ in messages(work, tasks[:2]):
        pass


def messages(work: Work, tasks: Sequence[Task], *, rounds: int = 2) -> Iterator[tuple[Round, list[Entry]]]:
    """What a client of noise sends in the first rounds of every phase of these tasks, before anything is trained."""
    state = State()
    for task in tasks:
        for name, phase in work.method.phases.items():
            for index in range(min(phase.rounds, rounds)) if phase.tasks(task) else ():
                round = Round(task, name, index, 0)
                sent, state = _after(work, state, phase, round)
                yield round, entries(sent, work.gives(round))


_ANYONE = "0"


def _after(work: Work, state: State, phase: Phase, round: Round) -> tuple[Tensors, State]:
    """(what one client of noise sends in a round, the state after it)."""
    with _unnoticed(work.model):
        if not phase.cohort([_ANYONE], round):
            return {}, phase.server_update(work.model, state, ZERO, round)
        sent = _sent(work, _ANYONE, state.shared, round)
        check_declared(sent, work.gives(round), f"method {work.method.name!r}, {round}")
        statistic = sent if work.lifts else phase.lift(state.shared, sent, round)
        check_declared(statistic, phase.gives(round, lifted=True), f"method {work.method.name!r}, {round}, lifted")
        return sent, phase.server_update(work.model, state, Statistic(statistic), round)


def check_declared(sent: Tensors, gives: Gives, whose: str) -> None:
    """`UserError` where a name is not declared, or a Gram is not laid out as it is declared to be."""
    strange = undeclared(sent, gives)
    if strange:
        raise UserError(
            f"{whose}: {', '.join(map(repr, strange))} would be sent and is not declared; declared are "
            f"{', '.join(sorted(gives))}: name it in the gives of what measures or merges it"
        )
    for entry in entries(sent, gives):
        shape = misshapen(entry)
        if shape:
            raise UserError(
                f"{whose}: {entry.name!r} is declared as {entry.label} ({entry.quantity.form}), which is {shape}, and "
                f"has the shape {tuple(entry.tensor.shape)}"
            )


def _sent(work: Work, client: ClientId, received: Tensors, round: Round) -> Tensors:

    try:
        with _unnoticed(work.model):
            data = work.method.phase(round).data(_Party(client, work.model), round.task)
            return computed(work, data, received, round)[0]
    except UserError:
        raise
    except Exception as error:  # a method from outside may do anything with samples that are none
        raise RunError(
            f"{round}: the schema of client {client}'s update cannot be found on samples of noise "
            f"({type(error).__name__}: {error}); set gate.check = false to run without checking updates"
        ) from error


@contextmanager
def _unnoticed(model: Model) -> Iterator[None]:
    """No progress is shown, and torch's generators are left as they were."""
    cuda = [model.device.index or 0] if model.device.type == "cuda" else []
    with shown_on(None), torch.random.fork_rng(devices=cuda):
        yield


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

    def remembering(self, memory: Tensors) -> Noise:  # noqa: ARG002 (noise has none)
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
