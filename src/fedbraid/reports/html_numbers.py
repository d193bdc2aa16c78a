"""What the page shows of a run: events and results read into plain numbers, and numbers into human words.

Everything but the method may be missing from the results, and a run may have stopped after any event; what is
not known is None, never a guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedbraid.evaluation import told

FIRST = 1
"""The number under which task 0 is shown, as papers count."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of one round in one direction over its clients."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Step:
    """One event that reached clients or was evaluated; `place` counts them from one along the run."""

    place: int
    task: int
    phase: str
    round: int
    accuracy: tuple[float | None, ...]
    overall: float | None
    up: Traffic | None
    down: Traffic | None
    seconds: float | None
    loss: float | None
    reported: int
    idle: int
    scores: Mapping[str, float] = field(default_factory=dict[str, float])


def real(value: object) -> float | None:
    """The value as a finite number, or None.

    >>> real(3), real(None), real(float("nan"))
    (3.0, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def steps_of(events: Iterable[Mapping[str, Any]]) -> tuple[Step, ...]:
    """The steps of the run: all events but those without clients and without an evaluation."""
    steps: list[Step] = []
    for event in events:
        correct, total = event.get("correct") or (), event.get("total") or ()
        reported, idle = len(event.get("reported") or ()), len(event.get("idle") or ())
        scores = told(event)
        if not reported and not idle and not scores:
            continue
        steps.append(
            Step(
                place=len(steps) + 1,
                task=int(event.get("task", 0)),
                phase=str(event.get("phase", "")),
                round=int(event.get("round", 0)),
                accuracy=tuple(c / n if n else None for c, n in zip(correct, total, strict=False)),
                overall=sum(correct) / sum(total) if sum(total) else None,
                up=_traffic(event.get("bytes_up")),
                down=_traffic(event.get("bytes_down")),
                seconds=real(event.get("seconds")),
                loss=real(event.get("loss")),
                reported=reported,
                idle=idle,
                scores=scores,
            )
        )
    return tuple(steps)


def ends_of_tasks(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The last evaluated step of each task, in order."""
    return tuple({step.task: step for step in steps if step.overall is not None}.values())


def matrix_of(results: Mapping[str, Any], steps: Sequence[Step]) -> list[list[float | None]]:
    """The accuracy matrix of the results, or that of the steps where the results have none yet."""
    given = results.get("accuracy_matrix") or [step.accuracy for step in ends_of_tasks(steps)]
    return [[real(value) for value in row] for row in given]


def whole_stream(matrix: Sequence[Sequence[object]]) -> bool:
    """Whether all tasks were learned at once, as the centralised method does."""
    return len(matrix) == 1 and len(matrix[0]) > 1


def best_and_final(matrix: Sequence[Sequence[float | None]]) -> dict[int, tuple[float, float]]:
    """For each task but the last: its best accuracy before the last row, and that in the last row.

    >>> best_and_final([[0.9], [0.95, 0.8], [0.7, 0.85, 0.9]])
    {0: (0.95, 0.7), 1: (0.8, 0.85)}
    """
    pairs: dict[int, tuple[float, float]] = {}
    for task, final in enumerate(matrix[-1] if matrix else ()):
        earlier = [row[task] for row in matrix[:-1] if task < len(row)]
        known = [value for value in earlier if value is not None]
        if known and final is not None:
            pairs[task] = (max(known), final)
    return pairs


def bytes_per_client(events: Iterable[Mapping[str, Any]], direction: str) -> float | None:
    """The total bytes of a client so far, mean over the clients that took part; None before any did."""
    totals: dict[str, float] = {}
    for event in events:
        for client, count in (event.get(direction) or {}).items():
            totals[client] = totals.get(client, 0.0) + count
    return sum(totals.values()) / len(totals) if totals else None


def percent(value: float | None) -> str:
    """A share in percent with one decimal; a dash where it is not known.

    >>> percent(0.9126), percent(None), percent(-0.0001)
    ('91.3%', '–', '0.0%')
    """
    return "–" if value is None else f"{100 * value:.1f}%".replace("-0.0%", "0.0%")


def size(value: float | None) -> str:
    """Bytes in decimal units with three figures.

    >>> size(812), size(12345), size(1.5e6), size(None)
    ('812 B', '12.3 kB', '1.50 MB', '–')
    """
    if value is None:
        return "–"
    if value < 999.5:
        return f"{value:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5 or unit == "TB":
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return ""


def size_mark(value: float) -> str:
    """Bytes on an axis: a round number without needless decimals.

    >>> size_mark(50000), size_mark(1.5e6), size_mark(0)
    ('50 kB', '1.5 MB', '0')
    """
    if value == 0:
        return "0"
    power = min(max(int(math.log10(abs(value)) / 3 + 1e-9), 0), 4)
    return f"{value / 1000**power:g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def duration(value: float | None) -> str:
    """Seconds as people say them.

    >>> duration(1.234), duration(41.2), duration(192), duration(7380)
    ('1.23 s', '41.2 s', '3 min 12 s', '2 h 3 min')
    """
    if value is None:
        return "–"
    if value < 99.95:
        return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"
    whole = round(value)
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "client"), counted(3, "client")
    ('1 client', '3 clients')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def task_name(task: int) -> str:
    """How a task is called on the page."""
    return f"task {task + FIRST}"


def class_names(names: Sequence[object], most: int = 12) -> str:
    """The names of a task's classes in one line, the middle left out where there are many.

    >>> class_names(["cat", "dog"]), class_names("abcdef", most=4)
    ('cat, dog', 'a, b, … (2 more), e, f')
    """
    shown = [name if len(name) <= 32 else name[:31] + "…" for name in map(str, names)]
    if len(shown) > most:
        half = most // 2
        shown = [*shown[:half], f"… ({len(shown) - 2 * half} more)", *shown[-half:]]
    return ", ".join(shown)


def _traffic(clients: object) -> Traffic | None:
    values = [float(value) for value in clients.values()] if isinstance(clients, Mapping) else []
    return Traffic(sum(values) / len(values), min(values), max(values)) if values else None
