"""What passes between the server and a party: a question as bytes, an answer as bytes, and who carries both.

A transport is all that differs between runtimes: it takes questions to parties and brings answers in any order. Rounds,
checks, sums and files are the server's (see `server`), and what a party computes is in `client`.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import ClientId, Round, Task
from fedbraid.errors import RunError

UPDATE, IDLE, LOST, STEP = "update", "idle", "lost", "step"
"""What an answer can be: an update, that there are no samples for the round, that what was sent earlier is gone, what a
party says in a step of a masked round."""


@dataclass(frozen=True)
class Answer:
    """What came back from a party. Without a payload, `fault` says why.

    `kept` is what a party in this process keeps for itself, `error` what its fault is; they are no part of the message.
    """

    client: ClientId
    payload: bytes = b""
    fault: str = ""
    kept: Tensors = field(default_factory=dict[str, Tensor])
    error: RunError | None = None


class Transport(Protocol):
    """Where the parties are."""

    @property
    def clients(self) -> Sequence[ClientId]: ...
    @property
    def evaluators(self) -> Sequence[ClientId]: ...

    def ask(self, questions: Mapping[ClientId, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        """Answers as they come; None now and then while there is none, so that the server can look at its clock.

        `received` is what the questions make of the shared tensors at every party. Closing the iterator gives up on
        those who have not answered.
        """
        ...

    def kept(self) -> Tensors:
        """What the parties of this process keep for themselves, as `<client>/<name>`."""
        ...

    def keep(self, client: ClientId, kept: Tensors) -> None:
        """Gives a party of this process back what it kept when it answered, before a crash."""
        ...

    def close(self) -> None:
        """Ends what the transport stands on."""
        ...


def spell(round: Round) -> str:
    """A round as text that travels."""
    task = {"index": round.task.index, "offsets": list(round.task.offsets)}
    return json.dumps({"task": task, "phase": round.phase, "index": round.index, "seed": round.seed})


def read_round(text: str) -> Round:
    """The round that `spell` wrote; `RunError` for any other text."""
    try:
        facts = json.loads(text)
        task = Task(facts["task"]["index"], tuple(facts["task"]["offsets"]))
        if any(type(number) is not int for number in (task.index, *task.offsets, facts["index"], facts["seed"])):
            raise TypeError("a round is counted in integers")  # 1.0 would be another name of round 1
        if not 0 <= task.index < len(task.offsets) - 1:
            raise ValueError(f"there is no task {task.index} among {len(task.offsets) - 1}")
        return Round(task, str(facts["phase"]), facts["index"], facts["seed"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunError(f"a question that names no round ({type(error).__name__}: {error})") from error
