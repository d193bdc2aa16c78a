"""What the finished rounds tell: how many there are, what they took, what each client did, how the scores went.

Memory is bounded by the clients and tasks of the run and by constants: of a curve of any length every second point is
dropped when there are too many, of a client's rounds the last few are kept one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedbraid.evaluation import better, told
from fedbraid.reports.html_numbers import real
from fedbraid.watch.picture import APART, FAILED, IDLE, REFUSED, SENT
from fedbraid.watch.texts import facts, texts, whole

POINTS, HISTORY = 400, 24
"""The most points of a curve, and how many rounds of a client are told one by one."""
CODES = {SENT: "s", IDLE: "i", FAILED: "f", REFUSED: "r", APART: "-"}
"""How a round is written in the history of a client."""


@dataclass
class Totals:
    """What a client did in all finished rounds; `history` is one code a round, the latest last."""

    rounds: int = 0
    idle: int = 0
    failed: int = 0
    refused: int = 0
    up: int = 0
    down: int = 0
    history: deque[str] = field(default_factory=lambda: deque[str](maxlen=HISTORY))


class Curve:
    """A score after the rounds in which it was measured, thinned evenly; the newest point is always there."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, float]] = []
        self._last: tuple[int, float] | None = None
        self._count, self._every = 0, 1

    def add(self, place: int, value: float) -> None:
        self._last = (place, value)
        if self._count % self._every == 0:
            self._kept.append(self._last)
        self._count += 1
        if len(self._kept) > POINTS:
            self._kept, self._every = self._kept[::2], 2 * self._every

    def points(self) -> list[tuple[int, float]]:
        """(round, value), rounds counted from one along the run."""
        newest = [self._last] if self._last and self._last not in self._kept[-1:] else []
        return [*self._kept, *newest]


class Finished:
    """What there is to say of all finished rounds so far; `names` are the scores, the main one first."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = names
        self.done = 0
        self.gaps: set[tuple[int, int]] = set()
        """Where rounds do not follow each other, as (the number that was due, the one that came)."""
        self.seconds = 0.0
        self.task = 0
        self.starts: dict[int, int] = {}
        """The first round of each task, counted from one along the run."""
        self.clients: dict[str, Totals] = {}
        self.curve = Curve()
        self.scores: dict[str, float] = {}
        self.best: dict[str, float] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Takes the record of the next finished round."""
        number = record.get("event")
        number = number if isinstance(number, int) else self.done
        self.gaps |= {(self.done, number)} if number != self.done else set()
        self.done = number + 1
        self.seconds += (real(record.get("seconds")) or 0.0) + (real(record.get("test_seconds")) or 0.0)
        self.task = whole(record.get("task"))
        self.starts.setdefault(self.task, self.done)
        self._count(record)
        self._score(record)

    def _count(self, record: Mapping[str, Any]) -> None:
        states = dict.fromkeys(texts(record.get("reported")), SENT) | dict.fromkeys(texts(record.get("idle")), IDLE)
        states |= dict.fromkeys(facts(record.get("failed")), FAILED)
        states |= dict.fromkeys(facts(record.get("refused")), REFUSED)
        if not states:
            return  # a step of the server alone
        up, down = facts(record.get("bytes_up")), facts(record.get("bytes_down"))
        for client in states:
            self.clients.setdefault(client, Totals())
        for client, totals in self.clients.items():
            state = states.get(client, APART)
            totals.rounds += state == SENT
            totals.idle += state == IDLE
            totals.failed += state == FAILED
            totals.refused += state == REFUSED
            totals.up += whole(up.get(client))
            totals.down += whole(down.get(client))
            totals.history.append(CODES[state])

    def _score(self, record: Mapping[str, Any]) -> None:
        try:
            found = {name: real(value) for name, value in told(record).items()}
        except (TypeError, ValueError, KeyError):
            return  # what was written is no evaluation
        found = {name: value for name, value in found.items() if value is not None}
        if not found:
            return
        self.scores = {name: found[name] for name in self._names if name in found} or found
        for name, value in self.scores.items():
            self.best[name] = better(name, [value, self.best.get(name, value)])
        self.curve.add(self.done, next(iter(self.scores.values())))
