"""A map of layers by rounds above curves over the same rounds: numbers to SVG, as in `charts`.

Cells of one tint are one path, so that a hundred layers in hundreds of rounds stay a small page. Rows are named one by
one where they are tall enough, else by block.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from fedbraid.reports.chart_frame import (
    Band,
    Frame,
    band_marks,
    box,
    end_labels,
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
from fedbraid.reports.charts import Format, Line, Tips, curve, end_of

TINTS = 24
LEGIBLE = 14.0
"""The height in pixels of a row that a name fits into."""


@dataclass(frozen=True)
class Scale:
    """What the tints of a map mean: zero to `top`, with a mark where a threshold is; `kind` is the CSS class."""

    top: float
    mark: float | None
    kind: str


@dataclass(frozen=True)
class Rows:
    """The rows of a map: their names, and where each begins; blocks stand a little apart."""

    names: Sequence[str]
    starts: Sequence[float]
    tall: float

    @property
    def end(self) -> float:
        return self.starts[-1] + self.tall


def layer_map(
    shares: Sequence[Sequence[float | None]],
    layers: Sequence[str],
    lines: Sequence[Line],
    *,
    title: str,
    description: str,
    width: float,
    scale: Scale,
    show: Format,
    heading: str,
    bands: Sequence[Band],
    tips: Tips,
) -> str:
    """Shares by layer and round as tints, and `lines` under the name `heading` below; both over the rounds 1, 2, ..."""
    wide, steps = width > 500, len(shares[0])
    rows = _rows(layers)
    labels = _labels(rows, 0.22 * width)
    values = [y for line in lines for _, y in line.points if y is not None]
    marks = ticks(0.0, max(values, default=0.0), 3)
    left = max(width_of(name) for name in [*(name for _, _, name, _ in labels), *map(show, marks)]) + 10
    right = max(width_of(f"{line.name} {line.value}".strip()) for line in lines) + 28
    below = rows.end + 46
    frame = Frame(
        width=width,
        height=below + (140 if wide else 110) + 42,
        left=left,
        right=max(right, width_of(_percent(scale.top)) + 36),
        top=below,
        bottom=42,
        x_range=(0.5, steps + 0.5),
        y_range=(marks[0], marks[-1]),
    )
    whole = replace(frame, top=rows.starts[0])
    shaded = [replace(band, name="", short="") for band in bands]
    named = [replace(band, note="") for band in bands]
    body = [
        band_marks(replace(whole, bottom=frame.height - whole.top), named),
        _cells(frame, rows, shares, scale),
        *(rule(frame.x(band.start), rows.starts[0], frame.x(band.start), rows.end, "edge") for band in bands[1:]),
        *(text(left - 10, y, name, "tick", "end") for _, y, name, _ in labels),
        *(box(0, y, left - 6, tall, 'class="area"', tip) for (y, tall), _, _, tip in labels),
        _legend(frame, rows, scale),
        band_marks(frame, shaded),
        text(frame.left, below - 12, heading, "label"),
        y_axis(frame, marks, list(map(show, marks))),
        x_axis(frame, "communication round"),
        *(curve(frame, line) for line in lines),
        end_labels(frame, [end_of(frame, line) for line in lines]),
        slots(whole, tips),
    ]
    return svg(title, description, width, frame.height, body)


def short_names(layers: Sequence[str]) -> list[str]:
    """The names without the modules that all of them share.

    >>> short_names(["vit.layer.0.fc1", "vit.layer.11.fc1"]), short_names(["vit.layer.0.fc1"])
    (['0.fc1', '11.fc1'], ['fc1'])
    """
    parts = [name.split(".") for name in layers]
    most = min(map(len, parts)) - 1
    shared = next((place for place in range(most) if len({part[place] for part in parts}) > 1), most)
    return [".".join(part[shared:]) for part in parts]


def _rows(layers: Sequence[str]) -> Rows:
    """As tall as leaves the map of a few hundred pixels, whether there are two layers or two hundred."""
    names = short_names(layers)
    tall = max(3.0, min(26.0, 440.0 / len(names)))
    blocks = [_block(name) for name in names]
    gap = 3.0 if len(names) > len(set(blocks)) > 1 else 0.0
    starts, y = list[float](), 24.0
    for place, block in enumerate(blocks):
        y += gap if place and block != blocks[place - 1] else 0.0
        starts.append(y)
        y += tall
    return Rows(names, starts, tall)


def _block(name: str) -> str:
    """What names the block of a layer: everything up to its first number, or the whole name."""
    found = re.match(r"(?:[^.]+\.)*?\d+(?=\.|$)", name)
    return found[0] if found else name


Label = tuple[tuple[float, float], float, str, str]
"""The area of a row or block, where its name stands, the name, and the tooltip."""


def _labels(rows: Rows, room: float) -> list[Label]:
    """A name for every row where all can be read, else for every block, thinned so that none touches the next."""
    if rows.tall >= LEGIBLE and max(map(width_of, rows.names)) <= room:
        pairs = zip(rows.names, rows.starts, strict=True)
        return [((y, rows.tall), y + rows.tall / 2 + 4, name, name) for name, y in pairs]
    found: list[Label] = []
    last = float("-inf")
    for block, members in groupby(zip(rows.names, rows.starts, strict=True), key=lambda pair: _block(pair[0])):
        names, starts = zip(*members, strict=True)
        tall = starts[-1] + rows.tall - starts[0]
        middle = starts[0] + tall / 2 + 4
        shown = _fitted(f"block {block}" if block.isdigit() else block, room) if middle - last >= LEGIBLE else ""
        last = middle if shown else last
        found.append(((starts[0], tall), middle, shown, "\n".join(["from top to bottom:", *names][len(names) < 2 :])))
    return found


def _fitted(name: str, room: float) -> str:
    """The end of a name that is too long: where layers differ."""
    most = max(4, int(room / width_of("x")))
    return name if len(name) <= most else "…" + name[1 - most :]


def _cells(frame: Frame, rows: Rows, shares: Sequence[Sequence[float | None]], scale: Scale) -> str:
    """One path for each tint, strokes as wide as a row is tall; the shares in percent where cells are large enough."""
    gap = 2.0 if min(frame.pitch, rows.tall) > 12 else 1.0 if min(frame.pitch, rows.tall) > 6 else 0.0
    wide, tall = frame.pitch - gap, rows.tall - gap
    paths: dict[int, list[str]] = {}
    told: list[str] = []
    printed = frame.pitch >= 38 and rows.tall >= LEGIBLE
    for row, y in zip(shares, rows.starts, strict=True):
        for place, share in enumerate(row, start=1):
            if share is None:
                continue
            x = frame.x(place) - frame.pitch / 2
            tint = round(TINTS * min(share / (scale.top or 1.0), 1.0))
            paths.setdefault(tint, []).append(f"M{number(x)} {number(y + tall / 2)}h{number(wide)}")
            if printed:
                look = "share deep" if tint > 0.76 * TINTS else "share even" if tint > 0.64 * TINTS else "share"
                told.append(text(x + wide / 2, y + tall / 2 + 3.5, f"{100 * share:.1f}", look, "middle"))
    drawn = (_strokes("".join(paths[tint]), tall, tint, scale) for tint in sorted(paths))
    return "".join([*drawn, *told])


def _legend(frame: Frame, rows: Rows, scale: Scale) -> str:
    """The tints from zero up to the top, right of the map, and where the threshold lies among them."""
    tall = min(rows.end - rows.starts[0], 132.0)
    x, top = frame.x_end + 22, rows.starts[0]
    part = tall / (TINTS + 1)
    body = [
        _strokes(f"M{number(x)} {top + (TINTS - tint + 0.5) * part:.2f}h10", part, tint, scale)
        for tint in range(TINTS + 1)
    ]
    body.append(text(x + 16, top + 9, _percent(scale.top), "tick"))
    if tall > 40:
        body.append(text(x + 16, top + tall, "0%", "tick"))
    if scale.mark is not None and 0 < scale.mark < scale.top:
        y = top + tall * (1 - scale.mark / scale.top)
        body.append(rule(x - 3, y, x + 13, y, "mark"))
        if 22 < y - top < tall - 14:
            body.append(text(x + 16, y + 4, _percent(scale.mark), "strong"))
    return "".join(body)


def _strokes(moves: str, tall: float, tint: int, scale: Scale) -> str:
    depth = 0.06 + 0.94 * tint / TINTS
    return f'<path class="tint {scale.kind}" stroke-width="{tall:.2f}" stroke-opacity="{depth:.2f}" d="{moves}"/>'


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
