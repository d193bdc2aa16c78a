"""CLINC150 as its authors publish it: one JSON file, split -> list of [text, intent]."""

from __future__ import annotations

import json
from pathlib import Path

from fedbraid.data.files import need
from fedbraid.data.rows import Rows, Splits
from fedbraid.errors import UserError


def clinc(path: Path) -> Splits:
    """The in-scope rows of `data_full.json`; its out-of-scope rows are splits of their own, which are not read."""
    file = need(path if path.is_file() else path / "data_full.json")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        pairs = {split: [(text, intent) for text, intent in content[split]] for split in ("train", "test")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read as CLINC150 (split -> list of [text, intent]): {error!r}") from error
    train, test = (Rows.of(rows, f"{file.name}, {split}") for split, rows in pairs.items())
    return Splits(train, test)
