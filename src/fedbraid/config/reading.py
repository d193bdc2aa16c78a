"""Reading and writing: TOML files and recipes, the bases they are laid over, and single values given beside them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from fedbraid.config.checking import near, parse
from fedbraid.config.sections import Config
from fedbraid.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

RECIPES = Path(str(files("fedbraid") / "configs"))


def read(source: str | Mapping[str, Any], overrides: Iterable[str] = ()) -> Config:
    """A configuration from a file, the name of a recipe, or nested values, changed by `key=value` texts."""
    where, values = (source, _load(source)) if isinstance(source, str) else ("", dict(source))
    for override in overrides:
        values = _over(values, _given(override))
    return parse(values, where or "command line")


def recipes() -> list[str]:
    """The names of the recipes in the package."""
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.toml"))


def recipe_title(name: str) -> str:
    """What a recipe says of itself: its first line, a comment."""
    return _found(name, RECIPES).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def to_toml(config: Config) -> str:
    """The configuration as TOML, every value included; what is not set has no line."""
    import tomli_w

    return tomli_w.dumps(_without_none(config.model_dump()))


def _load(source: str) -> dict[str, Any]:
    return _inherited(_found(source, Path())) if source else {}


def _found(source: str, folder: Path) -> Path:
    """The file of that path, seen from `folder`, or else the recipe of that name."""
    for path in (folder / source, RECIPES / f"{source}.toml"):
        if path.is_file():
            return path
    raise UserError(
        f"there is no configuration file {source!r} and no recipe of that name{near(source, recipes())}; "
        "'fedbraid recipes' lists them"
    )


def _inherited(path: Path, *heirs: Path) -> dict[str, Any]:
    """The values of a file, laid over those of its `base`; the file is the base of the last of its `heirs`."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is no valid TOML: {error}") from error
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"{path}: base = {base!r}: must be a file or the name of a recipe")
    chain = (*heirs, path.resolve())
    try:
        below = _found(base, path.parent)
    except UserError as error:
        raise UserError(f"{path}: base = {base!r}: {error}") from None
    if below.resolve() in chain:
        raise UserError(f"base leads back to where it comes from: {' -> '.join(map(str, (*chain, below.resolve())))}")
    return _over(_inherited(below, *chain), values)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values laid over others, table by table; options of another method do not hold for the one above."""
    merged = dict(below)
    for section, table in above.items():
        under, over = (_table(section, value) for value in (merged.get(section, {}), table))
        adds = isinstance(under, Mapping) and isinstance(over, Mapping)
        if adds and section == "method":
            name = under.get("name", "lorm")
            adds = over.get("name", name) == name
        merged[section] = {**under, **over} if adds else over
    return merged


def _table(section: str, value: Any) -> Any:
    """`method = "lorm"` is a table of one value."""
    return {"name": value} if section == "method" and isinstance(value, str) else value


def _given(override: str) -> dict[str, Any]:
    """One `section.key=value` as nested values; the value is TOML, or text where it is not."""
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--set {override!r} is no key=value; write for example --set training.lr=0.01")
    *sections, name = key.strip().split(".")
    try:
        values: dict[str, Any] = {name: tomllib.loads(f"v = {text}")["v"]}
    except tomllib.TOMLDecodeError:
        values = {name: text}
    for section in reversed(sections):
        values = {section: values}
    return values


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
