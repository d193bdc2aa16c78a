"""A run as the figures read it, and what all figures share: their frame, task bands, how a round is named.

Every chart is drawn for wide and for narrow pages, so that text keeps its size on a phone; the style sheet
shows one drawing of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedbraid.reports.chart_frame import Band, clean
from fedbraid.reports.html_numbers import (
    FIRST,
    Step,
    class_names,
    ends_of_tasks,
    matrix_of,
    percent,
    steps_of,
    task_name,
    whole_stream,
)

FULL, MIDDLE, HALF, NARROW = 1040.0, 640.0, 492.0, 350.0
"""Widths in pixels of a chart across the page, across a tablet, of one of two side by side, on a phone."""


@dataclass(frozen=True)
class Run:
    """A run as the figures read it."""

    results: Mapping[str, Any]
    steps: tuple[Step, ...]
    matrix: list[list[float | None]]

    @property
    def finished(self) -> bool:
        return self.results.get("finished", True) is not False

    @property
    def together(self) -> bool:
        """Whether all tasks were learned at once."""
        return whole_stream(self.matrix)

    @property
    def score_names(self) -> list[str]:
        """What the data set is measured by, the main score first."""
        return list(self.results.get("score_names") or self.results.get("scores") or ["accuracy"])

    @property
    def other_scores(self) -> list[str]:
        """The names of the scores that the accuracy over all classes does not tell already."""
        return [name for name in self.score_names if name != "accuracy" or not self.counted]

    @property
    def counted(self) -> bool:
        """Whether classes are told, so that there are right answers to count."""
        return bool(self.matrix) or any(step.overall is not None for step in self.steps)

    @property
    def tasks(self) -> int:
        """The number of tasks of the stream, as far as it is known."""
        seen = max((len(row) for row in self.matrix), default=0)
        return max(int(self.results.get("tasks") or 0), len(self.results.get("task_classes") or ()), seen)

    def place(self, task: int) -> float:
        """Where a task stands on the ramp of tasks."""
        return task / (self.tasks - 1) if self.tasks > 1 else 0.0

    def learned(self, task: int) -> str:
        """The name of the stretch of rounds in which a task was learned."""
        return "all tasks" if self.together else task_name(task)

    def classes(self, task: int) -> str:
        """The class names of a task in one line; empty where they are not known."""
        known = self.results.get("task_classes") or ()
        return class_names(known[task]) if task < len(known) else ""


def read(results: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> Run:
    """The run behind the results and events."""
    steps = steps_of(events)
    return Run(results=results, steps=steps, matrix=matrix_of(results, steps))


def bands(run: Run, *, notes: bool = False) -> list[Band]:
    """The rounds of each task as bands; with `notes`, the accuracy over all classes at the end of each."""
    ends = {step.task: percent(step.overall) for step in ends_of_tasks(run.steps)}
    spans: dict[int, list[int]] = {}
    for step in run.steps:
        spans.setdefault(step.task, []).append(step.place)
    return [
        Band(
            start=places[0] - 0.5,
            stop=places[-1] + 0.5,
            name=run.learned(task),
            short="all" if run.together else str(task + FIRST),
            note=ends.get(task, "") if notes else "",
        )
        for task, places in spans.items()
    ]


def where(run: Run, step: Step) -> str:
    """The name of a round: its number along the run, its task, its phase."""
    return f"round {step.place} · {run.learned(step.task)}, {step.phase} {step.round + FIRST}"


def figure(title: str, caption: str, draw: Callable[[float], str], *, full: bool = False) -> str:
    """A drawing for each width of page between its heading and its caption, which is plain text."""
    widths = {"wide": FULL, "middle": MIDDLE, "narrow": NARROW} if full else {"wide": HALF, "narrow": NARROW}
    drawings = "".join(f'<div class="{kind}">{draw(width)}</div>' for kind, width in widths.items())
    return (
        f'<figure class="{"full" if full else "half"}"><h2>{clean(title)}</h2>{drawings}'
        f"<figcaption>{clean(caption)}</figcaption></figure>"
    )


def no_figure(title: str, reason: str, *, full: bool = False) -> str:
    """The place of a figure that has nothing to show, saying why."""
    return (
        f'<figure class="{"full" if full else "half"}"><h2>{clean(title)}</h2>'
        f'<p class="empty">{clean(reason)}</p></figure>'
    )
