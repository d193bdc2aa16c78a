"""Tables of texts whose cells, columns, paths and class names are words that occur nowhere else."""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from fedbraid.testing.words import sentence

NAMES = [f"class {number}" for number in range(6)]
COLUMNS = {"text_column": "sentineltextcolumn", "label_column": "sentinellabelcolumn"}
SECRET = "sentinelsecretcolumn"
EACH, TESTED = 6, 3
"""Samples of a class to train and to test on, at every site."""

Row = tuple[str, str]
"""A text and its class."""


@dataclass
class Tables:
    """Where the tables are, and what no message may hold; by what it is."""

    folder: Path
    sites: Mapping[str, Path]
    sentinels: dict[str, bytes] = field(default_factory=dict)

    @property
    def server(self) -> Path:
        """Test samples by which the classes are known, with columns of the usual names."""
        return self.folder / "server"

    @property
    def union(self) -> Path:
        """The samples of all sites in one place, without what is secret."""
        return self.folder / "union"


def written(folder: Path, sites: Sequence[str], tokenizer: Path) -> Tables:
    """Writes tables for these sites; each also holds samples of a class that nobody else knows."""
    tables = Tables(folder, {site: folder / f"sentinelpath{site}" for site in sites})
    read = AutoTokenizer.from_pretrained(tokenizer)
    draws, words = torch.Generator().manual_seed(0), random.Random(0)
    found = tables.sentinels
    found |= {f"column {name}": name.encode() for name in (SECRET, *COLUMNS.values())}
    everything: dict[str, list[tuple[Row, str]]] = {"train": [], "test": []}
    for site, path in tables.sites.items():
        found |= {f"folder of {site}": path.name.encode(), f"path of {site}": str(path).encode()}
        odd = f"sentinelclass{site}"
        found[f"class of {site}"] = odd.encode()
        for split, each in (("train", EACH), ("test", TESTED)):
            rows = [
                (f"{sentence(label, draws)} sentinelword{words.randbytes(4).hex()}", name)
                for label, name in enumerate(NAMES)
                for _ in range(each)
            ]
            everything[split] += [(row, site if split == "train" else "nobody") for row in rows]
            rows.append((f"{sentence(0, draws)} sentinelword{words.randbytes(4).hex()}", odd))
            cells = [f"sentinelcell{words.randbytes(4).hex()}" for _ in rows]
            header = [*COLUMNS.values(), SECRET]
            _write(path / f"{split}.csv", header, [[*row, cell] for row, cell in zip(rows, cells, strict=True)])
            for number, ((text, _), cell) in enumerate(zip(rows, cells, strict=True)):
                said, word = text.rsplit(" ", 1)
                which = f"{split} {number} of {site}"
                found |= {
                    f"text {which}": said.encode(),
                    f"word {which}": word.encode(),
                    f"cell {which}": cell.encode(),
                }
                numbers = np.array(read(text)["input_ids"])
                for kind in (np.int64, np.int32):
                    found[f"{kind.__name__} tokens {which}"] = numbers.astype(kind).tobytes()
    header = ["text", "label", "client"]
    for split, rows in everything.items():
        _write(tables.union / f"{split}.csv", header, [[*row, client] for row, client in rows])
    _write(tables.server / "test.csv", header[:2], [[sentence(label, draws), name] for label, name in enumerate(NAMES)])
    return tables


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
