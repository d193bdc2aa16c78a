"""Four charts as pure functions from numbers to SVG: lines over rounds, heat map, bars in rows, columns.

Each takes what is drawn first, then the words and the width. Labels stand beside what they name; they give
way to each other and are thinned, never shrunk, where room is short.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedbraid.reports.chart_frame import (
    Band,
    End,
    Frame,
    band_marks,
    box,
    end_labels,
    fit,
    hue,
    number,
    rule,
    slots,
    svg,
    text,
    ticks,
    width_of,
    x_axis,
    y_axis,
)

Format = Callable[[float], str]
Tips = Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Line:
    """A curve with its label at the end: `kind` is its CSS class, `place` its place on the ramp of tasks.

    A point without a value interrupts the curve; `spread` holds (x, low, high), an area behind it.
    """

    name: str
    value: str
    points: Sequence[tuple[float, float | None]]
    kind: str
    place: float | None = None
    dots: Sequence[tuple[float, float]] = ()
    spread: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Bar:
    """A row of `bar_rows`: its name, its length, the value as printed, a remark at the right."""

    name: str
    size: float
    value: str
    note: str
    tip: str


@dataclass(frozen=True)
class Column:
    """A column of `column_chart`: the heights of its parts from the base up, and what is printed on top."""

    name: str
    parts: Sequence[float]
    tip: str
    top: str = ""


@dataclass(frozen=True)
class Part:
    """What one layer of all columns is: its label at the right (may be empty) and its place on the ramp."""

    name: str
    value: str = ""
    place: float | None = None


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    description: str,
    width: float,
    height: float,
    steps: int,
    show: Format,
    low: float | None = None,
    bands: Sequence[Band] = (),
    tips: Tips = (),
    stepped: bool = False,
    label: str = "communication round",
) -> str:
    """Curves over the rounds 1 .. `steps`; the vertical axis starts at `low`, or near the lowest value."""
    values = [y for line in lines for _, y in line.points if y is not None]
    values += [y for line in lines for _, *ends in line.spread for y in ends]
    marks = ticks(min(values) if low is None else low, max(values), int(height / 65))
    names = [show(mark) for mark in marks]
    right = max(width_of(f"{line.name} {line.value}") for line in lines) + 28
    frame = _frame(width, height, right, steps, names, marks, noted=any(band.note for band in bands))
    body = [band_marks(frame, bands), y_axis(frame, marks, names), x_axis(frame, label)]
    body += [curve(frame, line, stepped) for line in lines]
    body += [end_labels(frame, [end_of(frame, line, stepped) for line in lines]), slots(frame, tips)]
    return svg(title, description, width, height, body)


def heat_map(
    rows: Sequence[Sequence[float | None]],
    *,
    row_names: Sequence[str],
    column_names: Sequence[str],
    short_names: Sequence[str],
    tip: Callable[[int, int], str],
    title: str,
    description: str,
    width: float,
    low: float = 0.0,
    high: float = 1.0,
) -> str:
    """Shares as tinted cells, printed in percent; the tint runs from `low` to `high`, rows may be ragged."""
    count = max(len(row) for row in rows)
    left, top = max(map(width_of, row_names)) + 10, 24
    pitch = min((width - left) / count, 96)
    tall = min(pitch, 46) if pitch > 20 else pitch
    body = [
        text(left + (place + 0.5) * pitch, top - 8, name, "tick", "middle")
        for place, name in enumerate(fit(column_names, short_names, pitch))
    ]
    for i, row in enumerate(rows):
        y = top + i * tall
        body.append(text(left - 10, y + tall / 2 + 4, row_names[i], "tick", "end"))
        for j, value in enumerate(row):
            if value is not None:
                depth = min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0)
                body.append(_cell(left + j * pitch, y, pitch, tall, value, depth, tip(i, j)))
    return svg(title, description, width, top + len(rows) * tall + 2, body)


def bar_rows(bars: Sequence[Bar], *, title: str, description: str, width: float, heading: str = "") -> str:
    """Horizontal bars from a common zero, a negative size to the left; `heading` stands above the notes."""
    pitch, top = min(max(230.0 / len(bars), 18.0), 40.0), 24.0 if heading else 6.0
    left = max(width_of(bar.name) for bar in bars) + 10
    right = max(width_of(bar.note) for bar in bars) + 12
    room = max(width_of(bar.value) for bar in bars) + 10
    low, high = min(0.0, *(bar.size for bar in bars)), max(0.0, *(bar.size for bar in bars))
    start, stop = left + (room if low < 0 else 0), width - right - room
    scale = (stop - start) / ((high - low) or 1.0)
    zero = start - low * scale
    body = [text(width, top - 10, heading, "label", "end")]
    for place, bar in enumerate(bars):
        y, end = top + place * pitch, zero + bar.size * scale
        middle = y + pitch / 2 + 4
        kind = "bar-loss" if bar.size >= 0 else "bar-gain"
        look = f'class="{kind}" rx="1.5"'
        body.append(box(min(zero, end), y + 0.22 * pitch, abs(end - zero), 0.56 * pitch, look, bar.tip))
        body.append(text(left - 10, middle, bar.name, "tick", "end"))
        side = (end + 7, "start") if bar.size >= 0 else (end - 7, "end")
        body.append(text(side[0], middle, bar.value, "strong", side[1]))
        body.append(text(width, middle, bar.note, "tick", "end"))
    body.append(rule(zero, top, zero, top + len(bars) * pitch, "axis"))
    return svg(title, description, width, top + len(bars) * pitch + 2, body)


def column_chart(
    columns: Sequence[Column],
    parts: Sequence[Part],
    *,
    title: str,
    description: str,
    width: float,
    height: float,
    show: Format,
    label: str,
    bands: Sequence[Band] = (),
    named: bool = False,
) -> str:
    """Stacked columns, one for each name where `named`, else each round; layers are labelled at the end."""
    marks = ticks(0.0, max((sum(column.parts) for column in columns), default=1.0), 5)
    names = [show(mark) for mark in marks]
    labelled = max(width_of(f"{part.name} {part.value}".strip()) for part in parts)
    frame = _frame(width, height, labelled + 28 if labelled else 8, len(columns), names, marks)
    body = [band_marks(frame, bands), y_axis(frame, marks, names)]
    body += [_column(frame, place + 1, column, parts) for place, column in enumerate(columns)]
    body.append(x_axis(frame, label, [column.name for column in columns] if named else ()))
    if labelled:
        body.append(end_labels(frame, _layer_ends(frame, columns[-1], parts)))
    body.append(slots(frame, [(place + 1, column.tip) for place, column in enumerate(columns)]))
    return svg(title, description, width, height, body)


def _frame(
    width: float,
    height: float,
    right: float,
    steps: int,
    names: Sequence[str],
    marks: Sequence[float],
    *,
    noted: bool = False,
) -> Frame:
    """The plot area between the names of its vertical marks and `right` pixels of labels."""
    return Frame(
        width=width,
        height=height,
        left=max(map(width_of, names)) + 10,
        right=right,
        top=40 if noted else 24,
        bottom=42,
        x_range=(0.5, max(steps, 1) + 0.5),
        y_range=(marks[0], marks[-1]),
    )


def _cell(x: float, y: float, wide: float, tall: float, value: float, depth: float, tip: str) -> str:
    """A cell tinted by `depth` in [0, 1]; the class of its number says how deep, for contrast."""
    tint = 0.07 + 0.93 * depth
    tile = box(x, y, wide - 2, tall - 2, f'class="cell" rx="2" fill-opacity="{tint:.3f}"', tip)
    if wide < 21:
        return tile
    kind = "share deep" if tint > 0.78 else "share even" if tint > 0.57 else "share"
    shown = f"{100 * value:.{1 if wide >= 36 else 0}f}"
    return tile + text(x + wide / 2 - 1, y + tall / 2 + 3.5, shown, kind, "middle")


def _column(frame: Frame, x: float, column: Column, parts: Sequence[Part]) -> str:
    wide = frame.pitch * (0.72 if frame.pitch > 5 else 0.9)
    wide, base, body = min(wide, 44.0), 0.0, list[str]()
    for part, size in zip(parts, column.parts, strict=True):
        top = frame.y(base + size)
        kind = f'class="column{" apart" * (wide > 8)}'
        kind += '"' if part.place is None else f' task"{hue(part.place)}'
        if size > 0:
            body.append(box(frame.x(x) - wide / 2, top, wide, frame.y(base) - top, kind))
        base += size
    if column.top and width_of(column.top) <= frame.pitch + 4:
        body.append(text(frame.x(x), frame.y(base) - 6, column.top, "tick top", "middle"))
    return "".join(body)


def _layer_ends(frame: Frame, column: Column, parts: Sequence[Part]) -> list[End]:
    ends, base = list[End](), 0.0
    side = frame.x_end - frame.pitch / 2 + min(frame.pitch * 0.36, 22)
    for part, size in zip(parts, column.parts, strict=True):
        ends.append(End(side, frame.y(base + size / 2), part.name, part.value, "task", part.place))
        base += size
    return ends


def end_of(frame: Frame, line: Line, stepped: bool = False) -> End:
    """Where the line ends, for its label."""
    x, y = next((x, y) for x, y in reversed(line.points) if y is not None)
    shift = frame.pitch / 2 if stepped else 0.0
    return End(frame.x(x) + shift, frame.y(y), line.name, line.value, line.kind, line.place)


def curve(frame: Frame, line: Line, stepped: bool = False) -> str:
    """The spread behind, the curve with its gaps, lone points as small dots, the emphasised dots on top."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in line.points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((frame.x(x), frame.y(y)))
    look = f'class="line {line.kind}"{hue(line.place)}'
    half = frame.pitch / 2
    body = [_spread(frame, line)]
    for run in filter(None, runs):
        if stepped:
            moves = "".join(
                f"{'LM'[place == 0]}{number(x - half)} {number(y)}H{number(x + half)}"
                for place, (x, y) in enumerate(run)
            )
        else:
            moves = "M" + "L".join(f"{number(x)} {number(y)}" for x, y in run)
        if len(run) > 1 or stepped:
            body.append(f'<path d="{moves}" {look}/>')
        else:
            body.append(_dot(*run[0], 2.5, f"lone {line.kind}", line.place))
    radius = 4.5 if frame.width > 500 else 3.2
    body += [_dot(frame.x(x), frame.y(y), radius, f"dot {line.kind}", line.place) for x, y in line.dots]
    return "".join(body)


def _spread(frame: Frame, line: Line) -> str:
    half = frame.pitch / 2
    look = f'class="spread {line.kind}"'
    return "".join(
        box(frame.x(x) - half, frame.y(high), 2 * half, frame.y(low) - frame.y(high), look)
        for x, low, high in line.spread
        if high > low
    )


def _dot(x: float, y: float, radius: float, kind: str, place: float | None) -> str:
    return f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(radius)}" class="{kind}"{hue(place)}/>'
