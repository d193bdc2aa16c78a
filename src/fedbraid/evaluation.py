"""Metrics of class-incremental learning, from counts.

From `a[t][j]`, the accuracy on task j after learning task t, and `acc[t]`, the accuracy over all classes seen then:

    FAA         acc[T]: final accuracy over all classes
    AIA         the mean over tasks of acc[t]: average incremental accuracy
    forgetting  the mean over the tasks j before the last of  max over t < T of a[t][j] - a[T][j]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """Right answers and samples by task after one task of the stream."""

    correct: tuple[int, ...]
    total: tuple[int, ...]

    @property
    def by_task(self) -> tuple[float, ...]:
        return tuple(c / n if n else 0.0 for c, n in zip(self.correct, self.total, strict=True))

    @property
    def overall(self) -> float:
        return sum(self.correct) / max(sum(self.total), 1)


@dataclass(frozen=True)
class Metrics:
    """The table's numbers; accuracies are fractions of one."""

    faa: float
    aia: float
    forgetting: float
    task_mean_accuracy: float
    accuracy_matrix: tuple[tuple[float, ...], ...]
    accuracy_by_task: tuple[float, ...]


def metrics(rows: Sequence[Counts]) -> Metrics:
    """The metrics of a run from the counts after each of its tasks.

    >>> rows = [Counts((9,), (10,)), Counts((6, 10), (10, 10))]
    >>> m = metrics(rows)
    >>> m.faa, round(m.aia, 3), round(m.forgetting, 3)
    (0.8, 0.85, 0.3)
    """
    matrix = tuple(row.by_task for row in rows)
    overall = tuple(row.overall for row in rows)
    last = matrix[-1]
    lost = [max(row[j] for row in matrix[j:-1]) - last[j] for j in range(len(matrix) - 1)]
    return Metrics(
        faa=overall[-1],
        aia=sum(overall) / len(overall),
        forgetting=sum(lost) / len(lost) if lost else 0.0,
        task_mean_accuracy=sum(last) / len(last),
        accuracy_matrix=matrix,
        accuracy_by_task=overall,
    )


def rows_of(records: Sequence[Mapping]) -> list[Counts]:
    """The counts after each task from event records (see `reports.records`): the last evaluation of the task."""
    by_task: dict[int, Counts] = {}
    for record in records:
        if record.get("total"):
            by_task[record["task"]] = Counts(tuple(record["correct"]), tuple(record["total"]))
    return [by_task[task] for task in sorted(by_task)]
