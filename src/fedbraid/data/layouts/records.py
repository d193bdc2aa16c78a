"""Rows of named fields, from the files that authors publish and from the hub: what readers of prompts start from."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedbraid.data.files import need
from fedbraid.errors import UserError

Record = dict[str, Any]


def records(file: Path, *fields: str) -> list[Record]:
    """The rows of a .csv, .jsonl or .json file (a list, or one row), each with these fields filled in."""
    need(file)
    try:
        rows = list(_parsed(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file} cannot be read ({error}); get it anew") from error
    return checked(rows, str(file), *fields)


def hub_records(name: str, split: str, *fields: str, config: str | None = None) -> list[Record]:
    """The rows of a split on the hub, each with these fields filled in."""
    import datasets

    (table,) = datasets.load_dataset(name, config, split=[split])
    return checked(list(table), f"{name} {split}", *fields)


def checked(rows: Sequence[Any], place: str, *fields: str) -> list[Record]:
    """The rows; `UserError` naming the first that lacks one of the fields."""
    for number, row in enumerate(rows, start=1):
        for field in fields:
            cell = row.get(field) if isinstance(row, dict) else None
            if not isinstance(cell, str) or not cell.strip():
                raise UserError(
                    f"{place}, row {number}: there is no {field!r} that is a text; mend the row or get the file anew"
                )
    return list(rows)


def _parsed(file: Path) -> Iterator[Any]:
    with file.open(encoding="utf-8", newline="") as stream:
        if file.suffix == ".csv":
            yield from csv.DictReader(stream)
        elif file.suffix == ".jsonl":
            yield from (json.loads(line) for line in stream if line.strip())
        else:
            content = json.load(stream)
            yield from content if isinstance(content, list) else [content]
