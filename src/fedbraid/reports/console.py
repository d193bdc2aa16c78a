"""What a terminal shows of a run: bars while it works, one line a round, a table at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedbraid.evaluation import score_of, told
from fedbraid.naming import printable
from fedbraid.progress import shown_on
from fedbraid.reports.console_health import health_lines
from fedbraid.reports.records import Record
from fedbraid.reports.screen_words import words


class Bars:
    """A display of nested loops: one bar each, gone when the loop ends."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def begin(self, what: str, total: int | None) -> int:
        return int(self._progress.add_task(printable(what), total=total))

    def advance(self, loop: int) -> None:
        self._progress.advance(TaskID(loop))

    def end(self, loop: int) -> None:
        self._progress.remove_task(TaskID(loop))


@contextmanager
def bars(console: Console) -> Iterator[None]:
    """Long steps inside this context show bars with time left."""
    columns = (
        TextColumn("{task.description:<22}", style="dim", markup=False),
        BarColumn(bar_width=30),
        TextColumn("[dim]{task.completed:>5.0f}/{task.total:.0f}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True) as progress, shown_on(Bars(progress)):
        yield


def headline(console: Console, facts: Mapping[str, Any], folder: Path) -> None:
    """What is about to run."""
    console.print(
        f"[bold]{words(facts['method'])}[/] on [bold]{words(facts['data'])}[/] with backbone "
        f"[bold]{words(facts['backbone'])}[/]: "
        f"{facts['tasks']} tasks, {facts['clients']} clients, {facts['partition']['kind']} partition, "
        f"seed {facts['seed']}"
    )
    for note in facts["notes"]:
        console.print(f"[yellow]note[/] {words(note)}")
    console.print(f"[dim]folder {words(folder)}[/]\n")


def heard(console: Console, what: str, facts: Mapping[str, Any]) -> None:
    """What is told while a round runs: what leaves the clients, before it does."""
    if what == "privacy" and facts.get("first"):
        console.print(f"[dim]leaves the clients in {words(facts['said'])}[/]", highlight=False)


def round_line(event: Record, tasks: int, score: str = "accuracy") -> str | None:
    """One finished round in one line with its main score, and who was left out; None for a step of the server alone."""
    lost = _lost(event)
    if not event["reported"] and not lost:
        return None
    clients = max(len(event["reported"]), 1)
    parts = [
        f"task [bold]{event['task'] + 1}[/]/{tasks}",
        f"{event['phase']} {event['round'] + 1}" if event["phase"] == "train" else event["phase"],
        f"loss {event['loss']:.3f}" if event["loss"] is not None else "",
        _score(event, score),
        f"[dim]up {_size(sum(event['bytes_up'].values()) / clients)}"
        f"  down {_size(sum(event['bytes_down'].values()) / clients)}"
        f"  {event['seconds'] + event['test_seconds']:.1f} s[/]{lost}",
    ]
    widths = (10, 12, 11, 15, 0)
    return "  ".join(_padded(part, width) for part, width in zip(parts, widths, strict=True))


def final_table(console: Console, results: Mapping[str, Any], folder: Path) -> None:
    """The accuracy matrix where classes are told, and the metrics of a finished run."""
    console.print()
    if results.get("accuracy_matrix"):
        console.print(_matrix(results))
        console.print()
    console.print(f"{'   '.join([*_metrics(results), *_scores(results)])}")
    console.print(
        f"per client up {_size(results['bytes_up_per_client'])}, down {_size(results['bytes_down_per_client'])}   "
        f"{results['seconds']:.0f} s"
    )
    for line in health_lines(results):
        console.print(line, highlight=False)
    console.print(f"[dim]report[/] {words(folder / 'report.html')}")


def _matrix(results: Mapping[str, Any]) -> Table:
    matrix = results["accuracy_matrix"]
    table = Table(title="accuracy % (row: after task, column: on task)", title_justify="left", box=None)
    table.add_column("after", justify="right", style="dim")
    for j in range(len(matrix[-1])):
        table.add_column(f"task {j + 1}", justify="right")
    table.add_column("all seen", justify="right", style="bold")
    for t, (row, overall) in enumerate(zip(matrix, results["accuracy_by_task"], strict=True)):
        blanks = [""] * (len(matrix[-1]) - len(row))
        label = str(t + 1) if len(matrix) > 1 else "all"
        table.add_row(label, *[f"{100 * value:.1f}" for value in row], *blanks, f"{100 * overall:.1f}")
    return table


def _metrics(results: Mapping[str, Any]) -> list[str]:
    named = (("faa", "FAA"), ("aia", "AIA"), ("forgetting", "forgetting"))
    return [f"{word} [bold]{100 * results[key]:.1f}[/]" for key, word in named if key in results]


def _scores(results: Mapping[str, Any]) -> list[str]:
    """Every score as it was last and at its best; nothing where accuracy, which FAA tells, is the only one."""
    found, best = results.get("scores") or {}, results.get("best_scores") or {}
    if [*found] == ["accuracy"]:
        return []
    shown = {name: score_of(name) for name in found}
    return [
        f"{score.heading} [bold]{score.text(found[name])}[/] [dim](best {score.text(best.get(name))})[/]"
        for name, score in shown.items()
    ]


def _score(event: Record, name: str) -> str:
    value = told(event).get(name)
    score = score_of(name)
    return "" if value is None else f"{score.heading} [bold]{score.text(value)}[/]"


def _lost(event: Record) -> str:
    """Whose answers did not count, or for less, with the first reason of each kind; nothing where all did."""
    told = ""
    for kind in ("refused", "failed", "clipped"):
        reasons = event.get(kind) or {}
        for client, reason in [*reasons.items()][:1]:
            short = shorten(reason.removeprefix(f"refused client {client}: "), 100, placeholder=" ...")
            told += f"  [red]{kind} {words(', '.join(reasons))}[/]: {words(short)}"
    return told


def _padded(text: str, width: int) -> str:
    """The text filled up to a width that counts no markup."""
    from rich.text import Text

    return text + " " * max(width - Text.from_markup(text, emoji=False).cell_len, 0)


def _size(count: float) -> str:
    """Bytes in decimal units."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"
