"""What the command line shows, to people on a terminal and to programs on a pipe: runs, tables, JSON and errors.

Imports are made when they are needed, as in `cli`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from fedbraid.naming import printable, printable_lines
from fedbraid.stopping import STATUS, Stop, asked, stops

if TYPE_CHECKING:
    from fedbraid.config import Config
    from fedbraid.runs import Run


def drive(begin: Callable[[], Run]) -> None:
    """Drives a run from its preparation to its end: bars and lines on a terminal, records on a pipe."""
    from dataclasses import replace

    from fedbraid import runs
    from fedbraid.errors import RunError
    from fedbraid.reports import console as screen
    from fedbraid.reports import records
    from fedbraid.reports.screen_words import console

    out = console()
    run = None
    try:
        with stops(), screen.bars(out) if out.is_terminal else nullcontext():
            run = begin()
            facts = runs.summary(run.experiment)
            if out.is_terminal:
                screen.headline(out, facts, run.folder)
            shown = replace(run, heard=lambda what, **told: screen.heard(out, what, told)) if out.is_terminal else run
            for event in shown.events():
                record = records.record(event)
                if not out.is_terminal:
                    write_line(records.line(record))
                elif line := screen.round_line(record, facts["tasks"], facts["score_names"][0]):
                    out.print(line, highlight=False)
                if asked():  # some code keeps the interrupt to itself
                    raise Stop
        results = runs.read_results(run.folder)
        if out.is_terminal:
            screen.final_table(out, results, run.folder)
        else:
            write_line(records.line(results))
    except (KeyboardInterrupt, BrokenPipeError):
        saved = f"; the last finished round is saved. Continue with: fedbraid resume {run.folder}" if run else ""
        fail(f"stopped{saved}", STATUS)
    except RunError as error:
        fail(f"{error}\ncontinue with: fedbraid resume {run.folder}" if run else str(error), 1)


def write_line(line: bytes) -> None:
    """A record to standard output, at once."""
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def tell(text: object, *, err: bool = False) -> None:
    """A line for people, or several; nothing in it steers the terminal, whoever wrote it."""
    typer.echo(printable_lines(text), err=err)


def print_json(value: object) -> None:
    """A value for programs."""
    import json

    typer.echo(json.dumps(value, indent=2))


def print_table(headings: list[str], rows: list[list[str]], *, err: bool = False) -> None:
    """A table on a terminal, tab-separated lines on a pipe; on the error stream with `err`."""
    from rich.table import Table
    from rich.text import Text

    from fedbraid.reports.screen_words import console

    out = console(err=err)
    if not out.is_terminal:
        for row in [headings, *rows]:
            typer.echo("\t".join(map(printable, row)), err=err)
        return
    table = Table(box=None, header_style="bold")
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    out.print(table)


def print_health(results: Mapping[str, Any]) -> None:
    """What averaging loses and the health signs of a run; on the error stream where the output is a pipe."""
    from fedbraid.reports.console_health import health_lines
    from fedbraid.reports.screen_words import console

    out = console(err=not sys.stdout.isatty())
    for line in health_lines(results):
        out.print(line, highlight=False, soft_wrap=True)


def print_worth(runs: Sequence[tuple[Config, Mapping[str, Any]]]) -> None:
    """A line for every two settings that differ in the residual alone; on the error stream as above."""
    from fedbraid import aggregation
    from fedbraid.reports.health import worth

    for found in aggregation.pairs(runs):
        seeds = f", mean of {found['seeds']} seeds" if found["seeds"] > 1 else ""
        tell(f"{found['run']}{seeds}: {worth(found)}", err=not sys.stdout.isatty())


def fail(message: str, status: int) -> NoReturn:
    """Ends the process with a message that a user is meant to read."""
    tell(f"fedbraid: {message}", err=True)
    raise SystemExit(status)
