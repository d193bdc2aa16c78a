"""The table as one page that needs nothing else, in the look of a run's report.

For every data set: the numbers, accuracy over the tasks for each method, and one drawing for each of the final
accuracy, forgetting, bytes and seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedbraid.reports.chart_frame import clean
from fedbraid.reports.charts import Line, line_chart
from fedbraid.reports.html import page
from fedbraid.reports.html_numbers import counted, percent, real, size, size_mark
from fedbraid.reports.html_run import NARROW, figure, no_figure
from fedbraid.reports.table import COLUMNS, Cell, Column, Entry, Section, Table, marks, notes, sections
from fedbraid.reports.table_charts import Dot, dot_rows
from fedbraid.reports.tables import main_score

Words = Callable[[float], str]

FIGURES: Sequence[tuple[str, str, Words, Words, str]] = (
    ("faa", "FAA", percent, lambda value: f"{100 * value:g}%", "Accuracy over all classes after the last task."),
    (
        "forgetting",
        "Forgetting",
        percent,
        lambda value: f"{100 * value:g}%",
        "Mean over tasks of best earlier minus final accuracy.",
    ),
    ("bytes_up_per_client", "Sent up", size, size_mark, "By a client in the whole run, mean over clients."),
    (
        "seconds",
        "Time",
        lambda value: f"{value:,.{0 if value >= 100 else 1}f} s",
        lambda value: f"{value:,g} s",
        "Wall clock of a run.",
    ),
)
"""Key in the results, name, how a value and a mark of the axis are printed, and what it means."""


def render(table: Table) -> str:
    """The table as a self-contained HTML page."""
    parts = [_headline(table)]
    for section in sections(table):
        entries = table.on(section.data)
        drawings = [_lines(section.data, entries)] if _counted(entries) else []
        drawings += [_dots(section.data, entries, *words) for words in _figures(entries)]
        parts.append(
            f'<section class="dataset"><h2 class="name">{clean(section.data)}</h2>{_numbers(section)}'
            f'<div class="figures">{"".join(drawings)}</div></section>'
        )
    items = "".join(f"<li>{clean(note)}</li>" for note in notes(table))
    parts.append(f'<section class="notes"><h2>Notes</h2><ul>{items}</ul></section>')
    return page(table.title, "".join(parts))


def _counted(entries: Sequence[Entry]) -> bool:
    """Whether classes are told, as far as anything is known."""
    found = [result for entry in entries for result in entry.results.values()]
    return not found or any("faa" in result for result in found)


def _figures(entries: Sequence[Entry]) -> list[tuple[str, str, Words, Words, str]]:
    """The numbers to draw: those of accuracy where classes are told, and the main score where it is another."""
    found = [result for entry in entries for result in entry.results.values()]
    score = main_score(found)
    figures = [words for words in FIGURES if _counted(entries) or words[0] not in ("faa", "forgetting")]
    if score == main_score([]):
        return figures
    meaning = f"The main score, after the last round{', times 100' if score.unit > 1 else ''}."
    return [("score", score.heading, score.text, lambda value: f"{score.unit * value:g}", meaning), *figures]


def _headline(table: Table) -> str:
    methods = len({entry.method for entry in table.entries})
    done = sum(len(entry.results) for entry in table.entries)
    wanted = len(table.entries) * len(table.seeds)
    facts = [
        counted(methods, "method"),
        counted(len(table.data), "data set"),
        counted(len(table.seeds), "seed"),
        counted(done, "run"),
    ]
    state = "" if done == wanted else f'<p class="running" role="status">{done} of {wanted} runs have finished</p>'
    return (
        f'<header><p class="kicker">fedbraid table</p><h1>{clean(table.title)}</h1>'
        f'<p class="facts">{" · ".join(facts)}</p>{state}</header>'
    )


def _numbers(section: Section) -> str:
    head = "".join(f'<th scope="col"{_side(place)}>{clean(name)}</th>' for place, name in enumerate(section.headings))
    body = "".join(
        f'<tr><th scope="row">{clean(row[0].text)}</th>{"".join(map(_cell, row[1:]))}</tr>' for row in section.rows
    )
    return (
        f'<div class="scroll"><table class="results"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        '<p class="legend">Bold: the best mean of a column; underlined: within one deviation of it.</p>'
    )


def _cell(cell: Cell) -> str:
    tag = {"best": "b", "close": "u"}.get(cell.mark)
    text = clean(cell.text)
    return f'<td class="figure">{f"<{tag}>{text}</{tag}>" if tag else text}</td>'


def _side(place: int) -> str:
    return ' class="figure"' if place else ""


def _dots(data: str, entries: Sequence[Entry], key: str, name: str, show: Words, mark: Words, meaning: str) -> str:
    """One number of every method, as dots with deviations."""
    column = COLUMNS[key].on([result for entry in entries for result in entry.results.values()])
    best = marks(entries, column)
    drawn = [entry for entry in entries if entry.number(column) or not entry.results]
    dots = [_dot(entry, column, show, strong=best.get(entry.method) == "best") for entry in drawn]
    if all(dot.mean is None for dot in dots):
        return no_figure(name, "No run has finished.")
    known = [dot.mean for dot in dots if dot.mean is not None]

    def draw(width: float) -> str:
        return dot_rows(
            dots,
            title=f"{name} on {data}",
            description=". ".join(f"{dot.name}: {dot.value}" for dot in dots),
            width=width,
            show=mark,
            low=None if key in ("faa", "score") else min(0.0, *known),
        )

    caption = f"{meaning} Line: one deviation to each side. Small dots: single runs."
    if any(dot.published for dot in dots):
        caption += " Diamonds: published."
    return figure(name, caption, draw)


def _dot(entry: Entry, column: Column, show: Words, *, strong: bool) -> Dot:
    cell = entry.number(column)
    mean, deviation = (cell[0] / column.unit, cell[1] / column.unit) if cell else (None, 0.0)
    spread = f" ± {show(deviation)}" if deviation else ""
    missing = "failed" if entry.failures else "not finished"
    return Dot(
        name=entry.name,
        mean=mean,
        deviation=deviation,
        runs=[v for result in entry.results.values() if (v := real(result.get(column.key))) is not None],
        published=[reference.value / column.unit for reference in entry.references(column)],
        value=missing if mean is None else f"{show(mean)}{spread}",
        strong=strong,
    )


def _lines(data: str, entries: Sequence[Entry]) -> str:
    """Accuracy over all classes seen after each task, mean over seeds, one line a method."""
    curves = {entry.name: curve for entry in entries if (curve := _curve(list(entry.results.values())))}
    if not curves:
        return no_figure("Accuracy over tasks", "No run has finished.", full=True)
    best = next((entry.name for entry in entries if marks(entries, COLUMNS["faa"]).get(entry.method) == "best"), "")
    steps = int(max(place for curve in curves.values() for place, _ in curve))
    values = [value for curve in curves.values() for _, value in curve]

    def draw(width: float) -> str:
        lines = [
            Line(
                name=name if width > NARROW or len(name) < 14 else name[:13] + "…",
                value=percent(curve[-1][1]),
                points=curve,
                kind="main" if name == best else "method",
                place=None if name == best else place / max(len(curves) - 1, 1),
                dots=curve,
            )
            for place, (name, curve) in enumerate(curves.items())
        ]
        return line_chart(
            lines,
            title=f"Accuracy over tasks on {data}",
            description=". ".join(f"{name}: {percent(curve[-1][1])} at the end" for name, curve in curves.items()),
            width=width,
            height=400 if width > NARROW else 320,
            steps=steps,
            show=lambda value: f"{100 * value:g}%",
            low=max(0.0, min(values) - 0.05),
            tips=[(step, _tip(step, curves)) for step in range(1, steps + 1)],
            label="after task",
        )

    caption = "Accuracy over all classes seen after each task, mean over seeds. A lone dot learned all tasks at once."
    return figure("Accuracy over tasks", caption, draw, full=True)


def _curve(results: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(task, mean accuracy); a run that learned all tasks at once has its only point after the last one."""
    rows = [result["accuracy_by_task"] for result in results if "accuracy_by_task" in result]
    count = min(map(len, rows), default=0)
    last = int(results[0].get("tasks", count)) if results else 0
    shift = last - count if count == 1 else 0
    return [(float(task + 1 + shift), sum(row[task] for row in rows) / len(rows)) for task in range(count)]


def _tip(step: int, curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    reached = [(value, name) for name, curve in curves.items() for place, value in curve if place == step]
    return "\n".join([f"after task {step}", *(f"{name}: {percent(value)}" for value, name in sorted(reached)[::-1])])
