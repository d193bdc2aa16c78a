"""The picture that a look at a run gives: plain data, the same for a page, a terminal and a program.

All durations are in seconds, bytes are bytes, shares and scores are as they are in the files. Names and reasons are one
line of visible characters each, of bounded length (see `texts.plain`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FORMAT = 1
"""The version of what `Status.data` gives; it changes when a key changes its meaning or goes."""
NOT_BEGUN, RUNNING, SILENT, PAUSED, FINISHED, GONE = "not begun", "running", "silent", "paused", "finished", "gone"
"""What a run can be. silent: nothing was written for longer than is usual; gone: the folder holds no run any more."""
READING = "reading"
"""The state in the first looks at a long run, before all of its files has been read."""
SENT, IDLE, AWAITED, MISSING = "sent", "idle", "awaited", "missing"
FAILED, REFUSED, APART = "failed", "refused", "apart"
STATES: tuple[str, ...] = (SENT, IDLE, AWAITED, MISSING, FAILED, REFUSED, APART)
"""What a client is in a round. idle: without samples for it; missing: the round ended without it; apart: not asked."""


@dataclass(frozen=True)
class Privacy:
    """The largest epsilon that the log tells, at its delta; None is no bound."""

    epsilon: float | None
    delta: float | None


@dataclass(frozen=True)
class About:
    """What is run on what; None is not known."""

    method: str | None
    data: str | None
    backbone: str | None
    partition: str | None
    seed: int | None
    clients: int | None
    tasks: int | None


@dataclass(frozen=True)
class Progress:
    """Finished rounds of all; `left` is a guess from the rounds so far."""

    done: int
    rounds: int | None
    task: int
    tasks: int | None
    spent: float
    left: float | None


@dataclass(frozen=True)
class Round:
    """The newest round; tasks and rounds count from zero. `over`: what it gave is merged, or the run paused in it."""

    task: int
    phase: str
    index: int
    at: str | None
    seconds: float | None
    deadline: float | None
    needed: int | None
    asked: int
    counts: Mapping[str, int]
    over: bool


@dataclass(frozen=True)
class Client:
    """A client in the newest round of training, and in all finished rounds together."""

    id: str
    state: str
    reason: str
    bytes: int
    seconds: float | None
    seen: float | None
    samples: int | None
    rounds: int
    idle: int
    failed: int
    refused: int
    up: int
    down: int
    history: str


@dataclass(frozen=True)
class Score:
    """A score as it was last and at its best; times `unit` it is as people write it."""

    name: str
    heading: str
    last: float
    best: float
    unit: float


@dataclass(frozen=True)
class Trouble:
    """Something that an operator may have to look into: when it happened last, and how often it has."""

    at: str | None
    ago: float | None
    what: str
    client: str
    text: str
    times: int


@dataclass(frozen=True)
class Status:
    """The picture. `read` is how much of the files has been read."""

    run: str
    state: str
    why: str
    advice: str
    now: str
    sign: float | None
    read: float
    about: About
    progress: Progress
    round: Round | None
    training: Round | None
    clients: tuple[Client, ...]
    scores: tuple[Score, ...]
    curve: tuple[tuple[int, float], ...]
    starts: tuple[tuple[int, int], ...]
    up: int
    down: int
    failed: int
    refused: int
    ignored: int
    troubles: tuple[Trouble, ...]
    privacy: Privacy | None
    results: Mapping[str, float]

    def data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"format": FORMAT, **asdict(self)}
