"""The grid file: which methods run on which data sets with which seeds, and what is chosen for each of them.

Configuration values are laid over one another, the later over the earlier: those of `base`, of `[common]`, of the data
set, of the method. A method's options from below it hold for that method alone.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from fedbraid.config import Section, near
from fedbraid.errors import UserError
from fedbraid.reports import tables

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


def _values(given: object) -> dict[str, Any]:
    """Configuration values by `section.key`, however deep the tables are that hold them."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{given!r} is no table; write section.key = value")
    method = {"method": {"name": given["method"]}} if isinstance(given.get("method"), str) else {}
    found = tables.flat({**given, **method})
    for key in found:
        if key.count(".") != 1:
            raise ValueError(f"{key!r} is no section.key of a configuration")
    if "run.seed" in found:
        raise ValueError("'run.seed' is not set here but by `seeds`")
    return found


def _points(given: object) -> object:
    """Values to choose from by `section.key`; false is none at all."""
    return None if given is False else _values(given)


def _column(key: str) -> str:
    keys = [key for key, _, _ in (*tables.COLUMNS, *tables.ADAPTER_COLUMNS, *tables.SCORE_COLUMNS)]
    if key not in keys:
        raise ValueError(f"there is no column {key!r}{near(key, keys)}")
    return key


Values = Annotated[dict[str, Any], BeforeValidator(_values)]
Points = dict[str, Annotated[list[Any], Field(min_length=1)]]
Column = Annotated[str, AfterValidator(_column)]


class Choose(Section):
    """How values are chosen: the best by `metric` of a run on training data with a `fraction` held out to test on."""

    fraction: float = Field(default=0.2, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)
    metric: Literal["faa", "aia", "task_mean_accuracy", "score"] = "faa"
    grid: Annotated[Points, BeforeValidator(_values)] = Field(default_factory=dict)
    """The same small grid for every method."""


class MethodRow(Section):
    """A row: configuration values, and what is chosen for it beside the common grid; None is nothing at all."""

    values: Values
    choose: Annotated[Points | None, BeforeValidator(_points)] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return {"values": given}
        values = {key: value for key, value in given.items() if key != "choose"}
        return {"values": values} | ({"choose": given["choose"]} if "choose" in given else {})

    @model_validator(mode="after")
    def _named(self) -> MethodRow:
        if "method.name" not in self.values:
            raise ValueError('the row names no method; add for example method.name = "lorm"')
        return self


class Grid(Section):
    """A grid file. Labels of data sets and methods are the words of the table."""

    title: str
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 2], min_length=1)
    columns: list[Column] = Field(default=[key for key, _, _ in tables.COLUMNS], min_length=1)
    base: str = ""
    """A configuration file or the name of a recipe."""
    common: Values = Field(default_factory=dict)
    data: dict[str, Values] = Field(min_length=1)
    methods: dict[str, MethodRow] = Field(min_length=1)
    choose: Choose = Choose()

    @model_validator(mode="after")
    def _once(self) -> Grid:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {self.seeds}: a seed stands twice")
        return self


def read(path: Path) -> Grid:
    """The grid of a file, `${NAME}` in texts replaced by environment variables.

    Raises `UserError` that names file and key. Whether the configuration values fit is seen when they are laid out.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the grid file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no valid TOML: {error}") from error
    try:
        return Grid.model_validate(_expanded(given, str(path)))
    except ValidationError as error:
        raise UserError("\n".join(_fault(fault, path) for fault in error.errors())) from None


def _expanded(value: Any, where: str) -> Any:
    """The value with environment variables in all of its texts."""
    if isinstance(value, dict):
        return {key: _expanded(item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, where) for item in value]
    return re.sub(r"\$\{(\w+)\}", lambda found: _variable(found[1], where), value) if isinstance(value, str) else value


def _variable(name: str, where: str) -> str:
    if name not in os.environ:
        raise UserError(f"{where}: there is no environment variable {name}; set it with: export {name}=...")
    return os.environ[name]


def _fault(fault: Mapping[str, Any], path: Path) -> str:
    """One validation error in words, with the nearest key there is."""
    place = [str(part) for part in fault["loc"] if part != "values"]
    where = ": ".join([str(path), *([".".join(place)] if place else [])])
    words = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        known = Choose.model_fields if len(place) > 1 else Grid.model_fields
        return f"{path}: unknown key {'.'.join(place)!r}{near(place[-1], known)}"
    if fault["type"] in ("missing", "value_error"):
        return f"{where}: {words[0].lower()}{words[1:]}"
    return f"{where} = {fault['input']!r}: {words[0].lower()}{words[1:]}"
