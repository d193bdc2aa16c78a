"""The report of one run as one page that needs nothing else: no network, no fonts, no libraries.

`render` is a pure function of the run's results, events and configuration: equal input gives equal bytes.
Its parts: `html_numbers` reads and words the numbers, `html_run` is the run as figures see it;
`html_accuracy`, `html_scores`, `html_costs` and `html_deviation` make the figures with `charts`, `html_tables`
and `html_privacy` the rest; on top of it all stand the signs of `html_health`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from fedbraid.reports.chart_frame import clean
from fedbraid.reports.html_accuracy import accuracy_figure, forgetting_figure, matrix_figure
from fedbraid.reports.html_costs import bytes_figure, loss_figure, samples_figure, seconds_figure
from fedbraid.reports.html_deviation import deviation_figure, deviation_table
from fedbraid.reports.html_health import health_section
from fedbraid.reports.html_numbers import bytes_per_client, counted, duration, percent, real, size, task_name
from fedbraid.reports.html_privacy import privacy_notes, privacy_table
from fedbraid.reports.html_run import Run, read
from fedbraid.reports.html_scores import score_tiles, scores_figure
from fedbraid.reports.html_tables import configuration, environment, lost_answers, notes, tables


def render(results: Mapping[str, Any], events: Sequence[Mapping[str, Any]], config_text: str) -> str:
    """The report of a run, finished or not, as one self-contained HTML page.

    >>> page = render({"method": "fedavg", "accuracy_matrix": [[0.9]], "faa": 0.9}, [], "seed = 1")
    >>> "fedavg" in page and "90.0%" in page
    True
    """
    run = read(results, events)
    costs = [bytes_figure(run), seconds_figure(run), loss_figure(run), samples_figure(run)]
    body = [
        _headline(run),
        health_section(results),
        _numbers(run, events),
        f'<section class="figures">{"".join([*_learned(run), deviation_figure(run, events), *costs])}</section>',
        f'<section class="made"><div>{configuration(config_text)}</div>'
        f"<div>{environment(results)}{notes(results)}{privacy_notes(results)}</div></section>",
        _data(run, events),
    ]
    return page(_title(results), "".join(body))


def _learned(run: Run) -> list[str]:
    """The figures of what was learned, that of the main score first."""
    scores = scores_figure(run)
    accuracy = [] if scores and not run.counted else [accuracy_figure(run)]
    first = [scores, *accuracy] if run.score_names[0] != "accuracy" else [*accuracy, scores]
    return [*first, *([matrix_figure(run), forgetting_figure(run)] if accuracy else [])]


def page(title: str, body: str) -> str:
    """A page around its body, with the style sheet and the tooltips inside."""
    style, script = _asset("style.css"), _asset("html_tooltips.js")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{clean(title)} · fedbraid</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return files("fedbraid.reports").joinpath(name).read_text("utf-8")


def _title(results: Mapping[str, Any]) -> str:
    data = results.get("data")
    return f"{results.get('method', 'run')} on {data}" if data else str(results.get("method", "run"))


def _headline(run: Run) -> str:
    results = run.results
    method, data = clean(results.get("method", "run")), results.get("data")
    name = f"{method} <span>on</span> {clean(data)}" if data else method
    return (
        f'<header><p class="kicker">fedbraid run report</p><h1>{name}</h1>'
        f'<p class="facts">{" · ".join(map(clean, _facts(run)))}</p>{_progress(run)}</header>'
    )


def _facts(run: Run) -> list[str]:
    results, facts = run.results, list[str]()
    if results.get("backbone"):
        facts.append(f"{results['backbone']} backbone")
    for count, noun in ((results.get("clients"), "client"), (run.tasks, "task")):
        if count:
            facts.append(counted(count, noun))
    if results.get("seed") is not None:
        facts.append(f"seed {results['seed']}")
    return facts


def _progress(run: Run) -> str:
    if run.finished:
        return ""
    last = run.steps[-1] if run.steps else None
    at = f": {task_name(last.task)} of {run.tasks}, after round {last.place}" if last else ": no round has finished yet"
    return f'<p class="running" role="status">In progress{clean(at)}</p>'


def _numbers(run: Run, events: Sequence[Mapping[str, Any]]) -> str:
    items = "".join(
        f"<div><dt>{clean(name)}</dt><dd>{clean(value)}</dd><dd>{clean(meaning)}</dd></div>"
        for name, value, meaning in [*_reached(run), *_spent(run, events)]
    )
    return f'<dl class="numbers">{items}</dl>'


def _reached(run: Run) -> list[tuple[str, str, str]]:
    """What the model has learned, the main score first."""
    results, scores = run.results, score_tiles(run)
    if scores and not run.counted:
        return scores
    seen = next((step.overall for step in reversed(run.steps) if step.overall is not None), None)
    first = ("FAA", percent(real(results.get("faa"))), "accuracy over all classes after the last task")
    if not run.finished:
        first = ("Accuracy so far", percent(seen), "over all classes seen; FAA is known after the last task")
    counts = [
        first,
        ("AIA", percent(real(results.get("aia"))), "mean over tasks of the accuracy over the classes seen"),
        (
            "Forgetting",
            percent(real(results.get("forgetting"))),
            "mean over tasks of best earlier minus final accuracy",
        ),
    ]
    return [*counts, *scores] if run.score_names[0] == "accuracy" else [*scores, *counts]


def _spent(run: Run, events: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    results = run.results
    up, down = (
        real(results.get(f"{way}_per_client")) or bytes_per_client(events, way) for way in ("bytes_up", "bytes_down")
    )
    known = [step.seconds for step in run.steps if step.seconds is not None]
    spent = real(results.get("seconds")) or (sum(known) if known else None)
    rounds = [counted(len(run.steps), "communication round")] if run.steps else []
    return [
        ("Sent up", size(up), "by a client in the whole run, mean"),
        ("Sent down", size(down), "to a client in the whole run, mean"),
        ("Time", duration(spent), ", ".join(["wall clock", *rounds])),
    ]


def _data(run: Run, events: Sequence[Mapping[str, Any]]) -> str:
    folded = lost_answers(events) + tables(run) + deviation_table(events) + privacy_table(run.results)
    return f'<section class="data"><h2>Numbers</h2>{folded}</section>' if folded else ""
