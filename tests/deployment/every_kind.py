"""Federations of every kind of data, with every kind of emptiness, and the same data in one place."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from fedbraid.testing.words import TELLING, sentence

Row = tuple[int, int]
"""A sample: its class, and its number within the class."""

SMALL = ("training.rounds=1", "training.epochs=1", "adapter.rank=2", "adapter.blocks=0", "privacy.small_grams=allow")
TWO_TASKS = ("stream.sizes=[2,2]",)
KINDS: Mapping[str, Sequence[str]] = {
    "image": ("method.name=lorm", *TWO_TASKS),
    "text": ("method.name=lorm", *TWO_TASKS),
    "pair": ("method.name=fedit", "data.pair_column=other", *TWO_TASKS),
    "numbers": ("method.name=fedit", "data.scores=['pearson','spearman']"),
    "prompts": (
        *("method.name=fedit", "data.answer_column=answer", "data.category_column=label", *TWO_TASKS),
        *("generation.max_new_tokens=4", "training.lr=1e-2"),
    ),
}
"""The settings of each kind of data."""


@dataclass(frozen=True)
class Held:
    """Who holds which samples: by site to train on and to test on, and what lies at the server."""

    train: Mapping[str, Sequence[Row]]
    server: Mapping[str, Sequence[Row]]
    test: Mapping[str, Sequence[Row]] = field(default_factory=dict[str, Sequence[Row]])

    @property
    def evaluate(self) -> str:
        return "sites" if self.test else "server"


def _rows(classes: Iterable[int], numbers: Iterable[int]) -> list[Row]:
    return [(label, number) for label in classes for number in numbers]


ALL = range(4)
NORTH, TESTS = _rows(ALL, range(3, 7)), _rows(ALL, range(3))
SOUTH = _rows(ALL, range(7, 9))
HELD: Mapping[str, Held] = {
    "a server without training samples": Held({"north": NORTH, "south": SOUTH}, {"test": TESTS}),
    "a server with training samples": Held({"north": NORTH, "south": SOUTH}, {"test": TESTS, "train": NORTH}),
    "a site without test samples": Held(
        {"north": NORTH, "south": SOUTH}, {"test": TESTS}, {"north": TESTS, "south": _rows([4], range(2))}
    ),
    "a client without a task": Held({"north": NORTH, "south": _rows([0, 1], range(7, 9))}, {"test": TESTS}),
    "a client with one sample": Held({"north": NORTH, "south": [(2, 7)]}, {"test": TESTS}),
}
"""Every kind of emptiness. Class 4 is one that the run does not know."""


def write(folder: Path, kind: str, held: Held) -> None:
    """A folder a site, `server`, and `union` with everything in one place."""
    for site, rows in held.train.items():
        _table(folder / site / "train.csv", kind, [(row, "") for row in rows])
    for site, rows in held.test.items():
        _table(folder / site / "test.csv", kind, [(row, "") for row in rows])
    for split, rows in held.server.items():
        _table(folder / "server" / f"{split}.csv", kind, [(row, "") for row in rows])
    everything = [(row, site) for site, rows in held.train.items() for row in rows]
    known = 5 if kind == "numbers" else 4  # every number is known
    tests = [row for rows in held.test.values() for row in rows if row[0] < known] or held.server["test"]
    _table(folder / "union" / "train.csv", kind, everything, client=True)
    _table(folder / "union" / "test.csv", kind, [(row, "nobody") for row in tests], client=True)


def _table(path: Path, kind: str, rows: Sequence[tuple[Row, str]], *, client: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{**_cells(path.parent, kind, *row), **({"client": owner} if client else {})} for row, owner in rows]
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(cells[0]))
        table.writeheader()
        table.writerows(cells)


def _cells(folder: Path, kind: str, label: int, number: int) -> dict[str, Any]:
    draws = torch.Generator().manual_seed(100 * label + number)
    if kind == "image":
        images, labels = load_digits(return_X_y=True)
        place = np.flatnonzero(labels == label)[number]
        pixels = (images[place].reshape(8, 8) * (255 / 16)).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.png")
        return {"image": f"{place}.png", "label": label}
    text = sentence(label, draws)
    if kind == "numbers":
        return {"text": text, "label": label + number / 10}
    if kind == "pair":
        return {"text": text, "other": sentence(number % 4, draws), "label": f"class {label}"}
    if kind == "prompts":
        return {"prompt": text, "answer": f"{TELLING[2 * label]} {TELLING[2 * label + 1]}", "label": f"class {label}"}
    return {"text": text, "label": f"class {label}"}
