"""Runs side by side: mean and deviation over seeds of runs that differ in nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COLUMNS = (
    ("faa", "FAA", 100.0),
    ("aia", "AIA", 100.0),
    ("forgetting", "forgetting", 100.0),
    ("bytes_up_per_client", "MB up", 1e-6),
    ("bytes_down_per_client", "MB down", 1e-6),
    ("seconds", "seconds", 1.0),
)
"""Key in the results, heading, and the unit that a value is multiplied into."""


@dataclass(frozen=True)
class Row:
    """One setting: its label, its number of runs, and (mean, deviation) by column; None where a run lacks it."""

    label: str
    runs: int
    cells: tuple[tuple[float, float] | None, ...]


def rows(runs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[Row]:
    """Rows from pairs of (configuration as nested values, results); the best FAA comes first.

    Runs whose configurations differ in the seed alone share a row. Labels name the method and what else differs.
    """
    groups: dict[str, list[tuple[dict[str, Any], Mapping[str, Any]]]] = {}
    for config, results in runs:
        values = flat(config)
        values.pop("run.seed", None)
        groups.setdefault(repr(sorted(values.items())), []).append((values, results))
    settings = [members[0][0] for members in groups.values()]
    made = [
        Row(_label(members[0][0], settings), len(members), _cells([results for _, results in members]))
        for members in groups.values()
    ]
    return sorted(made, key=lambda row: -(row.cells[0] or (0.0, 0.0))[0])


def text(cell: tuple[float, float] | None, runs: int) -> str:
    """A cell in words: the mean, with the sample deviation where there are several runs."""
    if cell is None:
        return "–"
    mean, deviation = cell
    digits = 1 if abs(mean) >= 1 else 3
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}" if runs > 1 else f"{mean:.{digits}f}"


def mean_and_deviation(results: Sequence[Mapping[str, Any]], key: str, unit: float) -> tuple[float, float] | None:
    """Mean and sample deviation of a value over the results that have it, in the column's unit."""
    values = [unit * r[key] for r in results if key in r]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return (statistics.fmean(values), deviation) if values else None


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


def _cells(results: Sequence[Mapping[str, Any]]) -> tuple[tuple[float, float] | None, ...]:
    return tuple(mean_and_deviation(results, key, unit) for key, _, unit in COLUMNS)


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
