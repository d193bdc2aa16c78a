"""Dots with deviations in rows: one row a method, for every number of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedbraid.reports.chart_frame import Frame, box, number, rule, svg, text, ticks, width_of

LONGEST = 26
"""Characters of a name before it is cut; the tooltip has all of it."""


@dataclass(frozen=True)
class Dot:
    """A row: the mean with its deviation, single runs, what others published, and the value as printed.

    `mean` is None where there is nothing to draw; `value` then says why.
    """

    name: str
    mean: float | None
    deviation: float
    runs: Sequence[float]
    published: Sequence[float]
    value: str
    strong: bool = False


def dot_rows(
    dots: Sequence[Dot],
    *,
    title: str,
    description: str,
    width: float,
    show: Callable[[float], str],
    low: float | None = None,
) -> str:
    """Rows of dots over a common axis that starts at `low`, or near the lowest value."""
    values = [value for dot in dots for value in _extent(dot)] or [0.0]
    names = [_short(dot.name) for dot in dots]
    left = max(map(width_of, names)) + 10
    right = max(width_of(dot.value) for dot in dots) + 14
    count = max(2, int((width - left - right) / 70))
    marks = ticks(min(values) if low is None else low, max(values), count)
    pitch = min(max(230.0 / len(dots), 20.0), 34.0)
    frame = Frame(
        width=width,
        height=len(dots) * pitch + 34,
        left=left,
        right=right,
        top=6,
        bottom=28,
        x_range=(marks[0], marks[-1]),
        y_range=(float(len(dots)), 0.0),
    )
    body = [_axis(frame, [(mark, show(mark)) for mark in marks])]
    body += [_row(frame, place, name, dot) for place, (name, dot) in enumerate(zip(names, dots, strict=True))]
    return svg(title, description, width, frame.height, body)


def _axis(frame: Frame, marks: Sequence[tuple[float, str]]) -> str:
    """Vertical hairlines and their values below."""
    lines = [rule(frame.x(mark), frame.top, frame.x(mark), frame.y_end, "grid") for mark, _ in marks]
    names = [text(frame.x(mark), frame.y_end + 17, name, "tick", "middle") for mark, name in marks]
    return "".join(lines + names)


def _row(frame: Frame, place: int, name: str, dot: Dot) -> str:
    y = (frame.y(place) + frame.y(place + 1)) / 2
    look = "strong" if dot.strong else ""
    body = [
        text(frame.left - 10, y + 4, name, look or "tick", "end"),
        text(frame.width, y + 4, dot.value, look, "end"),
    ]
    if dot.mean is not None:
        start, stop = (frame.x(dot.mean + sign * dot.deviation) for sign in (-1, 1))
        body.append(rule(max(start, frame.left), y, min(stop, frame.x_end), y, "whisker"))
        body += [_circle(frame.x(value), y, 2.2, "single") for value in dot.runs if len(dot.runs) > 1]
        body.append(_circle(frame.x(dot.mean), y, 4.5, "dot main" if dot.strong else "dot up"))
    body += [_diamond(frame.x(value), y) for value in dot.published]
    tall = frame.y(1) - frame.y(0)
    tip = "\n".join([dot.name, dot.value, *(f"published {value:g}" for value in dot.published)])
    return "".join([*body, box(0, y - tall / 2, frame.width, tall, 'class="area"', tip)])


def _extent(dot: Dot) -> list[float]:
    reach = [] if dot.mean is None else [dot.mean - dot.deviation, dot.mean + dot.deviation]
    return [*reach, *dot.runs, *dot.published]


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _circle(x: float, y: float, radius: float, kind: str) -> str:
    return f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(radius)}" class="{kind}"/>'


def _diamond(x: float, y: float) -> str:
    return f'<path d="M{number(x)} {number(y - 6)}l6 6l-6 6l-6 -6z" class="published"/>'
