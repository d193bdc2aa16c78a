"""What every chart shares: numbers to places, text, axes, task bands, hover slots.

A chart is a string of SVG in pixels of its own width; colours come from CSS variables by class, so one
drawing serves light, dark and print. A mark's `<title>` is its tooltip.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

GLYPH = 7.0
"""Mean width of a character of chart text in pixels, on the generous side; nothing measures fonts here."""

_FORBIDDEN = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: object) -> str:
    """The text made safe for HTML and XML; what XML forbids becomes a replacement mark.

    >>> clean('<b> & "q"')
    '&lt;b&gt; &amp; &quot;q&quot;'
    """
    return escape(_FORBIDDEN.sub("\ufffd", str(text)), quote=True)


def number(value: float) -> str:
    """A coordinate with one decimal, without a trailing zero.

    >>> number(12.04), number(-0.01), number(3.25)
    ('12', '0', '3.2')
    """
    shown = f"{value:.1f}".removesuffix(".0")
    return "0" if shown == "-0" else shown


def width_of(text: str) -> float:
    """An upper estimate of the width of chart text, in pixels."""
    return GLYPH * len(text)


def ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """Round numbers that enclose [low, high], about `count` steps apart; integers where `whole`.

    >>> ticks(0.31, 0.97)
    [0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(1, 23, whole=True)
    [0, 5, 10, 15, 20, 25]
    """
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-4):
        high = low + (abs(low) if abs(low) > 1e-4 else 1.0)
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    if whole:
        step = max(1, round(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def dodge(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least `gap` apart inside [low, high], each as near to its wanted one as the others allow.

    >>> dodge([10, 10, 50], 4, 0, 60)
    [8.0, 12.0, 50.0]
    """
    order = sorted(range(len(wanted)), key=lambda item: wanted[item])
    blocks: list[list[float]] = []
    for rank, item in enumerate(order):
        blocks.append([wanted[item] - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            offset, size = blocks.pop()
            blocks[-1] = [blocks[-1][0] + offset, blocks[-1][1] + size]
    starts = [offset / size for offset, size in blocks for _ in range(int(size))]
    room = max(low, high - (len(order) - 1) * gap)
    places = [0.0] * len(order)
    for rank, item in enumerate(order):
        places[item] = min(max(starts[rank], low), room) + rank * gap
    return places


def fit(names: Sequence[str], shorter: Sequence[str], room: float) -> list[str]:
    """The names where all fit into `room` pixels, else the shorter ones, thinned until they fit."""
    for choice in (names, shorter):
        if all(width_of(name) + 4 <= room for name in choice):
            return list(choice)
    widest = max((width_of(name) + 6 for name in shorter), default=0.0)
    every = next(n for n in (2, 5, 10, 20, 50, 100, 1000, 10**9) if n * room >= widest)
    return [name if place % every == 0 else "" for place, name in enumerate(shorter)]


@dataclass(frozen=True)
class Frame:
    """The plot area of a chart and how values map into it."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    @property
    def x_end(self) -> float:
        return self.width - self.right

    @property
    def y_end(self) -> float:
        return self.height - self.bottom

    def x(self, value: float) -> float:
        """The pixel of a value on the horizontal axis."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.x_end - self.left)

    def y(self, value: float) -> float:
        """The pixel of a value on the vertical axis, which points up."""
        low, high = self.y_range
        return self.y_end - (value - low) / (high - low) * (self.y_end - self.top)

    @property
    def pitch(self) -> float:
        """The pixels of one step on the horizontal axis."""
        return self.x(1) - self.x(0)


@dataclass(frozen=True)
class Band:
    """A stretch of rounds, shaded in turn and named on top; `note` stands below where there is room."""

    start: float
    stop: float
    name: str
    short: str
    note: str = ""


def svg(title: str, description: str, width: float, height: float, body: Iterable[str]) -> str:
    """One accessible drawing; the title and the width together must be unique on a page."""
    name = clean("".join(c if c.isalnum() else "-" for c in title.lower()) + f"-{number(width)}")
    head = f'<title id="{name}-title">{clean(title)}</title><desc id="{name}-desc">{clean(description)}</desc>'
    return (
        f'<svg class="chart" role="img" aria-labelledby="{name}-title {name}-desc" '
        f'viewBox="0 0 {number(width)} {number(height)}" width="{number(width)}" height="{number(height)}">'
        f"{head}{''.join(body)}</svg>"
    )


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    """A line of text; nothing where the content is empty."""
    if not content:
        return ""
    side = "" if anchor == "start" else f' text-anchor="{anchor}"'
    look = f' class="{kind}"' if kind else ""
    return f'<text x="{number(x)}" y="{number(y)}"{look}{side}>{clean(content)}</text>'


def rule(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}" class="{kind}"/>'


def box(x: float, y: float, width: float, height: float, attributes: str, tip: str = "") -> str:
    """A rectangle with ready-made attributes and, where given, a tooltip."""
    place = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
    shape = f"<rect {place} {attributes}"
    return f"{shape}><title>{clean(tip)}</title></rect>" if tip else f"{shape}/>"


def hue(place: float | None) -> str:
    """The style attribute that puts a mark on the ramp of tasks at `place` in [0, 1]."""
    return "" if place is None else f' style="--p:{number(100 * place)}%"'


def y_axis(frame: Frame, marks: Sequence[float], names: Sequence[str]) -> str:
    """Hairlines across the plot and their values at the left."""
    parts: list[str] = []
    for mark, name in zip(marks, names, strict=True):
        y = frame.y(mark)
        parts.append(rule(frame.left, y, frame.x_end, y, "grid"))
        parts.append(text(frame.left - 8, y + 4, name, "tick", "end"))
    return "".join(parts)


def x_axis(frame: Frame, label: str, names: Sequence[str] = ()) -> str:
    """The base line with its ticks: `names` at 1, 2, ..., or round integers without them."""
    last = round(frame.x_range[1] - 0.5)
    marks = [(place + 1, name) for place, name in enumerate(fit(names, names, frame.pitch)) if name]
    if not names:
        count = max(2, int((frame.x_end - frame.left) / 56))
        marks = [(int(mark), f"{mark:g}") for mark in ticks(1, max(last, 2), count, whole=True) if 1 <= mark <= last]
    parts = [rule(frame.left, frame.y_end, frame.x_end, frame.y_end, "axis")]
    for mark, name in marks:
        if not names:
            parts.append(rule(frame.x(mark), frame.y_end, frame.x(mark), frame.y_end + 4, "axis"))
        parts.append(text(frame.x(mark), frame.y_end + 17, name, "tick", "middle"))
    parts.append(text((frame.left + frame.x_end) / 2, frame.y_end + 35, label, "label", "middle"))
    return "".join(parts)


def band_marks(frame: Frame, bands: Sequence[Band]) -> str:
    """The shading of every second band, and the names of all of them above the plot."""
    if not bands:
        return ""
    room = min(frame.x(band.stop) - frame.x(band.start) for band in bands)
    names = fit([band.name for band in bands], [band.short for band in bands], room)
    notes = [band.note for band in bands]
    fits = all(width_of(note) - 4 <= room for note in notes)
    parts: list[str] = []
    for place, band in enumerate(bands):
        left, right = frame.x(band.start), frame.x(band.stop)
        if place % 2 == 0:
            parts.append(box(left, frame.top, right - left, frame.y_end - frame.top, 'class="band"'))
        lift = 22 if any(notes) and fits else 7
        parts.append(text((left + right) / 2, frame.top - lift, names[place], "label", "middle"))
        if fits:
            parts.append(text((left + right) / 2, frame.top - 7, notes[place], "strong", "middle"))
    return "".join(parts)


def slots(frame: Frame, tips: Sequence[tuple[float, str]]) -> str:
    """Full-height areas around each step that show a hairline and the step's tooltip on hover."""
    wide, tall = frame.pitch, frame.y_end - frame.top
    parts: list[str] = []
    for x, tip in tips:
        cross = rule(frame.x(x), frame.top, frame.x(x), frame.y_end, "cross")
        area = box(frame.x(x) - wide / 2, frame.top, wide, tall, 'class="area"', tip)
        parts.append(f'<g class="slot">{cross}{area}</g>')
    return "".join(parts)


@dataclass(frozen=True)
class End:
    """Where a labelled mark ends, and its label."""

    x: float
    y: float
    name: str
    value: str
    kind: str
    place: float | None


def end_labels(frame: Frame, ends: Sequence[End]) -> str:
    """Names and values right of the plot, joined to their ends; thinned where they cannot all stand."""
    gap = 15.0
    most = max(2, int((frame.y_end - frame.top) / gap) + 1)
    every = -(-len(ends) // most)
    kept = [end for place, end in enumerate(ends) if end.kind == "main" or place % every == 0]
    places = dodge([end.y for end in kept], gap, frame.top, frame.y_end)
    body: list[str] = []
    for end, y in zip(kept, places, strict=True):
        x, level = frame.x_end + 22, number(end.y)
        start, bend = number(min(end.x + 6, frame.x_end)), number(frame.x_end + 4)
        path = f"M{start} {level}H{bend}L{number(x - 4)} {number(y)}"
        body.append(f'<path d="{path}" class="leader {end.kind}"{hue(end.place)}/>')
        value = f'<tspan class="value" dx="5">{clean(end.value)}</tspan>' if end.value else ""
        body.append(
            f'<text x="{number(x)}" y="{number(y + 4)}" class="end {end.kind}"{hue(end.place)}>'
            f"{clean(end.name)}{value}</text>"
        )
    return "".join(body)
