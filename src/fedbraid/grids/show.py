"""What people and programs get of a table while it fills: a live display on a terminal, JSON lines on a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial

from rich.console import Console
from rich.live import Live

from fedbraid.grids.cells import Plan, state
from fedbraid.grids.pool import Report, locked, work
from fedbraid.grids.progress import Progress, begin
from fedbraid.grids.results import fill, record, table, wanted, write
from fedbraid.reports import records, table_screen, table_text
from fedbraid.reports.screen_words import console
from fedbraid.reports.table_screen import Board, Job


def show(plan: Plan, *, jobs: int) -> bool:
    """Fills a plan and writes its table; whether no cell failed. A stop leaves the table as far as it is filled."""
    out = console()
    with locked(plan.folder) as lock, closing(fill(plan, partial(work, jobs=jobs, lock=lock))) as reports:
        try:
            if out.is_terminal:
                table_screen.headline(out, plan.grid.title, begin(plan, jobs).total, jobs)
                _live(reports, begin(plan, jobs), out)
            else:
                _lines(reports)
        except KeyboardInterrupt:
            reports.close()
            write(table(plan), plan.folder)
            raise
    made = table(plan)
    paths = write(made, plan.folder)
    if out.is_terminal:
        table_screen.final(out, made, paths)
    else:
        for row in table_text.records(made):
            _write(row)
    return not made.failed


def listing(plan: Plan) -> list[list[str]]:
    """Every cell with what it is: finished, failed, unfinished, new, or waiting for a choice."""
    found = [[state(point.cell), str(point.cell.folder)] for row in plan.rows for point in row.points]
    for row in plan.rows:
        known = wanted(plan, row)
        found += [[state(cell), str(cell.folder)] for cell in known or ()]
        found += [["not chosen yet", str(cell.folder)] for cell in plan.cells(row, {}) if known is None]
    return found


def _live(reports: Iterator[Report], progress: Progress, out: Console) -> None:
    begun = time.monotonic()
    with Live(console=out, transient=True, refresh_per_second=4) as live:
        for report in reports:
            progress = progress.after(report)
            for ended in report.ended:
                if not ended.earlier:
                    line = table_screen.cell_line(ended.cell.label, ended.error, record(ended))
                    out.print(line, highlight=False)
            live.update(table_screen.board(_board(progress, time.monotonic() - begun)))


def _lines(reports: Iterator[Report]) -> None:
    for report in reports:
        for ended in report.ended:
            if not ended.earlier:
                _write(record(ended))


def _board(progress: Progress, seconds: float) -> Board:
    jobs = [Job(job.cell.label, job.latest, job.rounds, job.total, job.seconds) for job in progress.running]
    return Board(progress.done, progress.total, progress.failed, seconds, progress.left, jobs)


def _write(values: dict[str, object]) -> None:
    sys.stdout.buffer.write(records.line(values))
    sys.stdout.buffer.flush()
