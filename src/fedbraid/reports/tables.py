"""Runs side by side: mean and deviation over seeds of runs that differ in nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedbraid.evaluation import SCORES, Score, score_of

COLUMNS = (
    ("faa", "FAA", 100.0),
    ("aia", "AIA", 100.0),
    ("forgetting", "forgetting", 100.0),
    ("bytes_up_per_client", "MB up", 1e-6),
    ("bytes_down_per_client", "MB down", 1e-6),
    ("seconds", "seconds", 1.0),
)
"""Key in the results, heading, and the unit that a value is multiplied into."""

ADAPTER_COLUMNS = (
    ("deviation_mean", "deviation", 100.0),
    ("deviation_max", "largest deviation", 100.0),
    ("parameters_up_per_round", "thousand numbers up a round", 1e-3),
)
"""More columns, for low-rank adapters: what averaging loses (see `merges.deviation`), and what a client sends."""

SCORE_COLUMNS = (
    ("score", "score", 100.0),
    ("best_score", "best score", 100.0),
    *((name, score.heading, score.unit) for name, score in SCORES.items()),
)
"""More columns: the main score of a data set, last and at its best, and each score by name."""


@dataclass(frozen=True)
class Row:
    """One setting: its label, its number of runs, and (mean, deviation) by column; None where a run lacks it."""

    label: str
    runs: int
    cells: tuple[tuple[float, float] | None, ...]


def columns_of(results: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str, float], ...]:
    """The columns in which these results have numbers: their scores first, where they are more than accuracy."""
    known = [key for key, _, _ in COLUMNS if any(key in one for one in results)]
    names = {name for one in results for name in one.get("scores") or {}} - ({"accuracy"} if "faa" in known else set())
    return tuple(column for column in (*SCORE_COLUMNS[2:], *COLUMNS) if column[0] in (*names, *known))


def rows(
    runs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    columns: Sequence[tuple[str, str, float]] = COLUMNS,
) -> list[Row]:
    """Rows from pairs of (configuration as nested values, results); the best main score comes first, FAA by default.

    Runs whose configurations differ in the seed alone share a row. Labels name the method and what else differs.
    """
    groups: dict[str, list[tuple[dict[str, Any], Mapping[str, Any]]]] = {}
    for config, results in runs:
        values = {key: value for key, value in flat(config).items() if not key.startswith("health.")}
        values.pop("run.seed", None)
        groups.setdefault(repr(sorted(values.items())), []).append((values, results))
    settings = [members[0][0] for members in groups.values()]
    found = [[results for _, results in members] for members in groups.values()]
    made = [
        (reached(results), Row(_label(values, settings), len(results), _cells(results, columns)))
        for values, results in zip(settings, found, strict=True)
    ]
    return [row for _, row in sorted(made, key=lambda pair: -pair[0])]


def reached(results: Sequence[Mapping[str, Any]]) -> float:
    """The mean main score of some runs, more of it being better; zero where nothing is known."""
    cell = mean_and_deviation(results, "score", 1.0) or mean_and_deviation(results, "faa", 1.0)
    sign = 1.0 if main_score(results).more_is_better else -1.0
    return sign * cell[0] if cell else 0.0


def text(cell: tuple[float, float] | None, runs: int) -> str:
    """A cell in words: the mean, with the sample deviation where there are several runs."""
    if cell is None:
        return "–"
    mean, deviation = cell
    digits = 1 if abs(mean) >= 1 else 3
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}" if runs > 1 else f"{mean:.{digits}f}"


def mean_and_deviation(results: Sequence[Mapping[str, Any]], key: str, unit: float) -> tuple[float, float] | None:
    """Mean and sample deviation of a value over the results that have it, in the column's unit."""
    found = [value_of(r, key) for r in results]
    values = [unit * value for value in found if value is not None]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return (statistics.fmean(values), deviation) if values else None


def value_of(results: Mapping[str, Any], key: str) -> float | None:
    """A number of the results, or else the last value of the score of that name; None where there is neither."""
    return results.get(key, (results.get("scores") or {}).get(key))


def main_score(results: Sequence[Mapping[str, Any]]) -> Score:
    """The main score of runs on one data set."""
    names = next((list(one["scores"]) for one in results if one.get("scores")), ["accuracy"])
    return score_of(names[0])


def flat(values: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """Nested tables as one, their keys joined by dots.

    >>> flat({"training": {"lr": 0.1}, "title": "a"})
    {'training.lr': 0.1, 'title': 'a'}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{start}{key}.")
        else:
            found[f"{start}{key}"] = value
    return found


def _cells(
    results: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str, float]]
) -> tuple[tuple[float, float] | None, ...]:
    return tuple(mean_and_deviation(results, key, unit) for key, _, unit in columns)


def _label(values: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> str:
    """The method, then every setting in which it differs from another row of the same method."""
    method = values["method.name"]
    same = [other for other in settings if other["method.name"] == method]
    keys = sorted({key for other in same for key in {*values, *other} if values.get(key) != other.get(key)})
    return " ".join([method, *[_setting(key, values[key]) for key in keys if values.get(key) is not None]])


def _setting(key: str, value: Any) -> str:
    """`data.name` reads as `data`, a path as its last part."""
    name = key.removesuffix(".name").split(".")[-1]
    return f"{name}={value.rstrip('/').split('/')[-1] if isinstance(value, str) else value}"
