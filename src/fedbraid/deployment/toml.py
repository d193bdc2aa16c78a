"""The small TOML files of a deployment: read, checked with the file and the key in every error, written whole."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fedbraid.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


class Table(BaseModel):
    """A table of a file: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Kind = TypeVar("Kind", bound=Table)


def read_checked(path: Path, kind: type[Kind]) -> Kind:
    """The values of a file; `UserError` names what is wrong."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return checked(values, kind, str(path))


def checked(values: Mapping[str, Any], kind: type[Kind], where: str) -> Kind:
    """Values as a table; `UserError` names what is wrong, and where it stands."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, one['loc']))} ({one['msg'].lower()})" for one in error.errors()]
        raise UserError(f"{where}: {'; '.join(faults)}") from None


def write_table(path: Path, table: Table, title: str = "") -> None:
    """Replaces the file by these values, what is not set left out; `title` is a comment on top."""
    import tomli_w

    from fedbraid.checkpoint import write_durably

    text = tomli_w.dumps(table.model_dump(exclude_none=True))
    write_durably(path, (f"# {title}\n{text}" if title else text).encode())
