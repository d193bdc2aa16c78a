"""Finding and reading the small files of a published layout, with errors that say what is missing."""

from __future__ import annotations

import os
from pathlib import Path

from fedbraid.errors import UserError


class MissingFile(UserError):
    """A part of a layout that is not there; whoever knows the data set adds where to get it."""


def inside(path: Path, *names: str) -> Path:
    """The first of these folders that `path` holds, else `path`: a copy is named with or without its top folder."""
    return next((path / name for name in names if (path / name).is_dir()), path)


def need(path: Path) -> Path:
    """The path; `MissingFile` where there is nothing, `UserError` where reading could wait for ever."""
    if not path.exists():
        raise MissingFile(f"there is no {path}")
    return ordinary(path)


def ordinary(path: Path) -> Path:
    """The path; `UserError` where a pipe, a socket or a device is there: nobody knows when one has been read."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(
            f"{path} is neither a file nor a folder (a pipe, a socket or a device); take it out of the data"
        )
    return path


def within(path: Path, root: Path) -> Path:
    """The path; `UserError` where a link leads from it out of the folder `root`, or to a folder that it lies in.

    Data come from elsewhere, and one link could make the whole disk a class.
    """
    place, top, holder = (Path(os.path.realpath(one)) for one in (path, root, path.parent))
    if not place.is_relative_to(top):
        raise UserError(f"{path} is a link that leads out of {root}, to {place}; copy what it leads to, or remove it")
    if holder.is_relative_to(place):
        raise UserError(f"{path} is a link that leads to {place}, which holds it; remove it")
    return path


def need_folder(path: Path) -> Path:
    """The path; `MissingFile` where it is no folder."""
    if not path.is_dir():
        raise MissingFile(f"{path} is no folder")
    return path


def lines(file: Path) -> list[str]:
    """The lines that are not empty, without the white space around them."""
    try:
        content = need(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as text ({error}); get it anew") from error
    return [line.strip() for line in content.splitlines() if line.strip()]


def pairs(file: Path, separator: str | None = None) -> list[tuple[str, str]]:
    """The first two fields of every line; fields are separated by white space unless another `separator` is given."""
    rows = [line.split(separator) for line in lines(file)]
    for number, row in enumerate(rows, start=1):
        if len(row) < 2:
            raise UserError(f"{file}, line {number}: {' '.join(row)!r} has one field, two are expected; get it anew")
    return [(row[0], row[1]) for row in rows]
