"""When: tasks and rounds as plain data, and the state that a run consists of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedbraid.algebra import Tensors

ClientId = str


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
