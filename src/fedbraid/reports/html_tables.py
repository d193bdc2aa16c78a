"""What is read rather than seen: configuration, environment, notes, and the charts' numbers as tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fedbraid.evaluation import score_of
from fedbraid.reports.chart_frame import clean
from fedbraid.reports.html_numbers import (
    FIRST,
    best_and_final,
    duration,
    percent,
    real,
    size,
    task_name,
)
from fedbraid.reports.html_run import Run

Cells = Sequence[Sequence[str]]


def configuration(text: str) -> str:
    """The TOML as given, tables and comments set apart."""
    if not text.strip():
        return '<h2>Configuration</h2><p class="empty">The configuration was not recorded.</p>'
    lines: list[str] = []
    for line in clean(text.strip("\n")).split("\n"):
        if re.match(r"\s*\[", line):
            lines.append(f"<b>{line}</b>")
        elif re.match(r"\s*#", line):
            lines.append(f"<i>{line}</i>")
        else:
            lines.append(line)
    return f"<details open><summary>Configuration</summary><pre>{chr(10).join(lines)}</pre></details>"


def environment(results: Mapping[str, Any]) -> str:
    """Where and with what the run was made, and how its final state can be recognised."""
    rows = [[str(key), str(value)] for key, value in (results.get("environment") or {}).items()]
    peak = real(results.get("peak_rss_bytes"))
    if peak is not None:
        rows.append(["peak memory", size(peak)])
    if results.get("state_sha256"):
        rows.append(["state sha256", str(results["state_sha256"])])
    if not rows:
        return '<h2>Environment</h2><p class="empty">The environment was not recorded.</p>'
    body = "".join(
        f'<tr><th scope="row">{clean(name)}</th><td{_mono(name)}>{clean(value)}</td></tr>' for name, value in rows
    )
    return f'<table class="pairs"><caption>Environment</caption><tbody>{body}</tbody></table>'


def notes(results: Mapping[str, Any]) -> str:
    """The remarks of the run; nothing where it made none."""
    items = "".join(f"<li>{clean(note)}</li>" for note in results.get("notes") or ())
    return f'<section class="notes"><h2>Notes</h2><ul>{items}</ul></section>' if items else ""


def tables(run: Run) -> str:
    """Every number of the charts, folded away."""
    return _tasks(run) + _matrix(run) + _rounds(run) + _samples(run)


def _tasks(run: Run) -> str:
    if not run.matrix:
        return ""
    drops, final = best_and_final(run.matrix), run.matrix[-1]
    rows: list[list[str]] = []
    for task in range(run.tasks):
        best, last = drops.get(task, (None, final[task] if task < len(final) else None))
        lost = percent(best - last) if best is not None and last is not None else "–"
        rows.append([task_name(task), run.classes(task), percent(best), percent(last), lost])
    return folded_table("Tasks", ["task", "classes", "best earlier", "final", "forgetting"], rows, words=2)


def _matrix(run: Run) -> str:
    columns = max((len(row) for row in run.matrix), default=0)
    rows = [
        ["all tasks" if run.together else task_name(i), *map(percent, row), *[""] * (columns - len(row))]
        for i, row in enumerate(run.matrix)
    ]
    return folded_table("Accuracy matrix", ["after", *(task_name(j) for j in range(columns))], rows)


def _rounds(run: Run) -> str:
    names = run.other_scores
    rows = [
        [
            str(step.place),
            run.learned(step.task),
            f"{step.phase} {step.round + FIRST}",
            f"{step.reported} of {step.reported + step.idle}",
            *([percent(step.overall)] if run.counted or not names else []),
            *(score_of(name).text(step.scores.get(name)) for name in names),
            "–" if step.loss is None else f"{step.loss:#.4g}",
            size(step.up.mean if step.up else None),
            size(step.down.mean if step.down else None),
            duration(step.seconds),
        ]
        for step in run.steps
    ]
    told = [*(["accuracy, all seen"] if run.counted or not names else []), *(score_of(name).heading for name in names)]
    head = ["round", "task", "phase", "clients", *told, "loss", "up", "down", "time"]
    return folded_table("Communication rounds, bytes as the mean of a client", head, rows, words=3)


def _samples(run: Run) -> str:
    samples = (run.results.get("partition") or {}).get("samples") or {}
    tasks = max((len(counts) for counts in samples.values()), default=0)
    rows = [
        [str(client), *(f"{count:,}" for count in counts), *[""] * (tasks - len(counts)), f"{sum(counts):,}"]
        for client, counts in samples.items()
    ]
    return folded_table("Samples by client", ["client", *(task_name(task) for task in range(tasks)), "sum"], rows)


def lost_answers(events: Sequence[Mapping[str, Any]]) -> str:
    """Whose answers did not count, or for less, and why, round by round; nothing where all did."""
    rows = [
        [client, task_name(event["task"]), f"{event['phase']} {event['round'] + FIRST}", kind, str(reason)]
        for event in events
        for kind in ("refused", "failed", "clipped")
        for client, reason in (event.get(kind) or {}).items()
    ]
    head = ["client", "task", "round", "what", "why"]
    return folded_table("Answers that did not count, or for less", head, rows, words=len(head))


def folded_table(title: str, head: Sequence[str], rows: Cells, words: int = 1) -> str:
    """A folded table; the first `words` columns are text, the others numbers. Empty without rows."""
    if not rows:
        return ""
    top = "".join(f'<th scope="col"{_side(place, words)}>{clean(name)}</th>' for place, name in enumerate(head))
    body = "".join(
        f'<tr><th scope="row">{clean(row[0])}</th>'
        + "".join(f"<td{_side(place, words)}>{clean(cell)}</td>" for place, cell in enumerate(row[1:], 1))
        + "</tr>"
        for row in rows
    )
    return (
        f'<details><summary>{clean(title)}</summary><div class="scroll"><table>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def _side(place: int, words: int) -> str:
    return "" if place < words else ' class="figure"'


def _mono(name: str) -> str:
    return ' class="mono"' if name == "state sha256" else ""
