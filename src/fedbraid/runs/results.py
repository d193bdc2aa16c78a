"""What comes of a run: metrics, costs and health signs, and the report, of finished and of unfinished ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedbraid import aggregation
from fedbraid import config as configs
from fedbraid.checkpoint import write_durably
from fedbraid.config import Config
from fedbraid.errors import UserError
from fedbraid.evaluation import final_scores, metrics, rows_of
from fedbraid.privacy import guard
from fedbraid.reports import records
from fedbraid.reports.deviations import measures
from fedbraid.reports.health import Thresholds, judged
from fedbraid.reports.html import render
from fedbraid.runs.folder import read_config, read_json, read_summary


def read_results(folder: Path) -> dict[str, Any]:
    """The results of a run folder, or what can be said of one that is not finished."""
    path = folder / "results.json"
    if path.is_file():
        return read_json(path)
    facts = read_summary(folder)
    events = records.read(folder / "events.jsonl")
    scores = measured(events, facts.get("score_names", ()))
    facts = {"finished": False, **facts, **scores, **costs(events), **private(folder)}
    return facts | judgement(facts, events, read_config(folder))


def judge(folder: Path, settings: Sequence[str] = (), against: Path | None = None) -> dict[str, Any]:
    """The results of a run folder with its health judged anew, by thresholds changed as `health.key=value`.

    `against` is a run that differs in the residual alone, which says what that is worth.
    """
    strange = [setting for setting in settings if not setting.startswith("health.")]
    if strange:
        raise UserError(f"a report changes thresholds alone, as --set health.noise=0.1; {strange[0]} needs a new run")
    config = configs.read(read_config(folder).model_dump(), settings)
    results, events = read_results(folder), records.read(folder / "events.jsonl")
    if against:
        other = (read_config(against), read_results(against))
        results["against"] = aggregation.against((config, results), other, against.name)
    return results | judgement(results, events, config)


def write_report(folder: Path, results: Mapping[str, Any] | None = None) -> Path:
    """Writes `report.html` from what the folder holds, and gives its path; `results` are those of `judge`."""
    events = records.read(folder / "events.jsonl")
    left = {"left": guard.read(folder / guard.FILE), **private(folder)}
    page = render({**(results or judge(folder)), **left}, events, (folder / "config.toml").read_text())
    path = folder / "report.html"
    write_durably(path, page.encode())
    return path


def private(folder: Path) -> dict[str, Any]:
    """What a private run has spent, under `privacy`; nothing of a run without noise."""
    spent = guard.spent(folder / guard.FILE)
    return {"privacy": dict(spent)} if spent else {}


def measured(events: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The metrics of class-incremental learning where classes are told, and the data set's scores."""
    rows = rows_of(events)
    return (asdict(metrics(rows)) if rows else {}) | final_scores(events, names)


def costs(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Bytes by client (the mean over all clients that took part), the numbers that a client sends in the largest round
    (the mean over its clients), and seconds of clients and evaluation."""
    return {
        "bytes_up_per_client": _mean_by_client(events, "bytes_up"),
        "bytes_down_per_client": _mean_by_client(events, "bytes_down"),
        "parameters_up_per_round": _largest_round(events),
        "seconds": sum(event["seconds"] + event["test_seconds"] for event in events),
    }


def judgement(results: Mapping[str, Any], events: Sequence[Mapping[str, Any]], config: Config) -> dict[str, Any]:
    """What averaging the factors loses, and the health signs by the configuration's thresholds."""
    thresholds = Thresholds(**config.health.model_dump())
    return {**measures(events), "health": judged(results, events, thresholds)}


def _mean_by_client(events: Sequence[Mapping[str, Any]], key: str) -> float:
    totals: dict[str, int] = {}
    for event in events:
        for client, size in event[key].items():
            totals[client] = totals.get(client, 0) + size
    return sum(totals.values()) / max(len(totals), 1)


def _largest_round(events: Sequence[Mapping[str, Any]]) -> float:
    sent = [event.get("values_up", {}) for event in events]
    return max((sum(values.values()) / len(values) for values in sent if values), default=0.0)
