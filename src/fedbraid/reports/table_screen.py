"""What a terminal shows of a table: bars while it fills, one line a finished cell, the numbers at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table as Columns
from rich.text import Text

from fedbraid.evaluation import score_of
from fedbraid.naming import printable
from fedbraid.reports.html_numbers import counted, duration, percent
from fedbraid.reports.screen_words import words
from fedbraid.reports.table import Cell, Section, Table, notes, sections


@dataclass(frozen=True)
class Job:
    """A cell at work: its name, its latest round, how many of how many are finished, and its seconds."""

    name: str
    latest: str
    rounds: int
    total: int | None
    seconds: float


@dataclass(frozen=True)
class Board:
    """A table as it fills: cells that are over, seconds since its beginning and to its end."""

    done: int
    total: int
    failed: int
    seconds: float
    left: float | None
    jobs: Sequence[Job]


def headline(console: Console, title: str, cells: int, jobs: int) -> None:
    """What is about to be filled."""
    at_once = f"{jobs} at once, each with one thread unless the grid says otherwise" if jobs > 1 else "one by one"
    console.print(f"[bold]{words(title)}[/]: {counted(cells, 'run')}, {at_once}", highlight=False)


def board(now: Board) -> RenderableType:
    """A bar for the table and one for every cell at work."""
    lines = Columns.grid(padding=(0, 2))
    whole = f"{now.done}/{now.total} cells" + (f", [red]{now.failed} failed[/]" if now.failed else "")
    left = f"about {duration(now.left)} left" if now.left else ""
    lines.add_row(f"[bold]{whole}[/]", _bar(now.done, now.total), left, f"[dim]{duration(now.seconds)}[/]")
    for job in now.jobs:
        latest = job.latest or ("begins" if job.total is None else "round 1")
        lines.add_row(words(job.name), _bar(job.rounds, job.total), latest, f"[dim]{duration(job.seconds)}[/]")
    return Group(Text(), lines)


def cell_line(name: str, error: str | None, found: Mapping[str, Any]) -> str:
    """One cell that is over, in one line."""
    if error:
        return f"[red]failed[/]  {words(name)}  [dim]{words(error)}[/]"
    shown = score_of(found.get("score_name", "accuracy"))
    heading, value = shown.heading, shown.text(found.get("score"))
    if shown.heading == "accuracy" and "faa" in found:
        heading, value = "FAA", percent(found["faa"])
    return f"[green]done[/]    {words(name)}  {heading} [bold]{value}[/]  [dim]{duration(found['seconds'])}[/]"


def final(console: Console, table: Table, paths: Sequence[Path]) -> None:
    """The numbers, what must be said of them, and where they were written."""
    for section in sections(table):
        console.print(_columns(section))
    for note in notes(table):
        console.print(f"[dim]{words(note)}[/]", highlight=False)
    console.print(f"\n[dim]{counted(len(paths), 'file')}[/] {words(', '.join(map(str, paths)))}", highlight=False)


def _columns(section: Section) -> Columns:
    title = Text(printable(section.data), "bold")
    columns = Columns(title=title, title_justify="left", box=None, header_style="dim")
    for place, heading in enumerate(section.headings):
        columns.add_column(words(heading), justify="right" if place else "left")
    for row in section.rows:
        columns.add_row(*map(_marked, row))
    return columns


def _marked(cell: Cell) -> Text:
    return Text(printable(cell.text), {"best": "bold", "close": "underline"}.get(cell.mark, ""))


def _bar(done: int, total: int | None) -> ProgressBar:
    return ProgressBar(total=total or 1, completed=done, width=30, pulse=total is None)
