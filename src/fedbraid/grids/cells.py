"""A grid laid out in a folder: one run folder a cell, and what is in it already.

    runs/<data>/<method>/seed-<seed>     the runs of the table
    choose/<data>/<method>/<point>       the runs that values are chosen by

Beside each run folder lie, under its name, `.toml` (the configuration that was asked for) and `.error.txt` (what a run
that failed had to say).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedbraid import config as configs
from fedbraid import runs
from fedbraid.config import Config
from fedbraid.errors import UserError
from fedbraid.grids.grid import Grid
from fedbraid.naming import shortened
from fedbraid.reports import tables

State = Literal["new", "unfinished", "failed", "finished"]


@dataclass(frozen=True)
class Cell:
    """One run: the labels of its row, what sets it apart there, its folder, and the configuration asked for."""

    data: str
    method: str
    name: str
    folder: Path
    config: Config

    @property
    def row(self) -> tuple[str, str]:
        return self.data, self.method

    @property
    def label(self) -> str:
        return f"{self.data} · {self.method} · {self.name}"

    @property
    def request(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.toml")

    @property
    def error(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.error.txt")

    @property
    def begun(self) -> bool:
        return (self.folder / "config.toml").is_file()


@dataclass(frozen=True)
class Point:
    """A point of a row's grid: its values, and the cell that says how good they are."""

    values: Mapping[str, Any]
    cell: Cell


@dataclass(frozen=True)
class Row:
    """A method on a data set: its configuration values, the grid of what is chosen for it, and the grid's points."""

    data: str
    method: str
    values: Mapping[str, Any]
    grid: Mapping[str, Sequence[Any]]
    points: Sequence[Point]


@dataclass(frozen=True)
class Plan:
    """A grid and the folder that it fills. `source` is the name of its file, for errors."""

    grid: Grid
    folder: Path
    rows: Sequence[Row]
    source: str

    def cells(self, row: Row, chosen: Mapping[str, Any]) -> list[Cell]:
        """The runs of a row under the chosen values, one a seed."""
        return [
            self.cell(row.data, row.method, f"seed {seed}", "runs", {**row.values, **chosen, "run.seed": seed})
            for seed in self.grid.seeds
        ]

    def cell(self, data: str, method: str, name: str, kind: str, values: Mapping[str, Any]) -> Cell:
        """One run, its configuration validated."""
        folder = self.folder / kind / slug(data) / slug(method) / slug(name)
        where = f"{self.source}: {method} on {data}"
        return Cell(data, method, name, folder, configs.parse(_nested(values), where))


def plan(grid: Grid, folder: Path, *, source: str = "grid", threads: int | None = None) -> Plan:
    """The grid laid out in a folder; `threads` is for the runs that say nothing of it.

    Raises `UserError` that names row and key where a configuration is not valid, before anything has run.
    """
    _check_labels(grid.data, source)
    _check_labels(grid.methods, source)
    base: dict[str, Any] = tables.flat(configs.read(grid.base).model_dump()) if grid.base else {}
    below = _over(base, grid.common)
    empty = Plan(grid, folder, (), source)
    rows = [_row(empty, below, data, method, threads) for data in grid.data for method in grid.methods]
    for row in rows:
        empty.cells(row, {})
    return Plan(grid, folder, rows, source)


def state(cell: Cell) -> State:
    """What the folder of a cell holds; `UserError` where it was begun under another configuration."""
    if not cell.begun:
        return "failed" if cell.error.is_file() else "new"
    if not cell.request.is_file():
        raise UserError(f"{cell.folder} holds a run that no table asked for; remove it, or choose another --out")
    _check_same(cell)
    if (cell.folder / "results.json").is_file() and runs.read_results(cell.folder)["finished"]:
        return "finished"
    return "failed" if cell.error.is_file() else "unfinished"


def slug(label: str) -> str:
    """The label as a name of a folder, short enough to be one.

    >>> slug("seed 0"), slug("LoRM: rank 4/8"), slug("training.lr=0.001")
    ('seed-0', 'LoRM-rank-4-8', 'training.lr=0.001')
    """
    return shortened(re.sub(r"[^\w.=,+-]+", "-", label).strip("-.") or "-")


def _row(plan: Plan, below: Mapping[str, Any], data: str, method: str, threads: int | None) -> Row:
    choose, about = plan.grid.choose, plan.grid.methods[method]
    values = _over(_over(below, plan.grid.data[data]), about.values)
    if threads and values.get("run.threads") is None:
        values["run.threads"] = threads
    grid = {} if about.choose is None else {**choose.grid, **about.choose}
    asked = {"run.seed": choose.seed, "data.validation_fraction": choose.fraction}
    points = [
        Point(point, plan.cell(data, method, _name(point), "choose", values | asked | point))
        for point in _product(grid)
    ]
    return Row(data, method, values, grid, points)


def _product(grid: Mapping[str, Sequence[Any]]) -> Iterable[dict[str, Any]]:
    """Every combination of the values, the first key's slowest; none without keys."""
    return (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())) if grid else ()


def _over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Values laid over others; where they name another method, the options of the one below are dropped."""
    below = under.get("method.name")
    other = below is not None and over.get("method.name", below) != below
    kept = {key: value for key, value in under.items() if not (other and key.startswith("method."))}
    return kept | dict(over)


def _nested(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Values by `section.key` as tables."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        found.setdefault(section, {})[name] = value
    return found


def _name(point: Mapping[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in point.items())


def _check_labels(labels: Iterable[str], source: str) -> None:
    """Folders must differ also where the case of letters does not count."""
    taken: dict[str, str] = {}
    for label in labels:
        other = taken.setdefault(slug(label).casefold(), label)
        if other != label:
            raise UserError(f"{source}: the labels {other!r} and {label!r} make one folder name; change one of them")


def _check_same(cell: Cell) -> None:
    """What was asked for must be what is wanted, and what runs in the folder must be what was asked for."""
    wanted, asked, held = (
        tables.flat(config.model_dump())
        for config in (cell.config, configs.read(str(cell.request)), runs.read_config(cell.folder))
    )
    for key in {**wanted, **asked, **held}:
        now, before, there = wanted.get(key), asked.get(key), held.get(key)
        if now == before and _settled(now, there):
            continue
        hint = " (--jobs changes it where the grid does not set it)" if key == "run.threads" else ""
        raise UserError(
            f"{cell.folder} was begun with {key} = {_word(there if now == before else before)}, the grid wants "
            f"{_word(now)}{hint}; remove the folder to run it anew, or choose another --out"
        )


def _settled(wanted: object, held: object) -> bool:
    """Whether a run makes this of a value: what is left open it decides, a path it makes absolute."""
    if wanted in (None, "auto", held):
        return True
    start, at, path = str(wanted).rpartition("@")
    return isinstance(wanted, str) and held == f"{start}{at}{Path(path).expanduser().resolve()}"


def _word(value: object) -> str:
    return "unset" if value is None else repr(value)
