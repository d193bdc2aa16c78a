"""What a reader hands over: samples as they lie in the file, labels by name, and where each row came from.

A reader knows files and columns; it knows nothing of class numbers, splits or tensors. Those are made in
`datasets.py`, once and for every reader alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fedbraid.data.prompts import Prompt

Sample: TypeAlias = Any
"""A text (str), a pair of texts (two str), a `Prompt` with its answers, an image file (Path), an encoded image (bytes),
its pixels (an uint8 array), or a function that gives one of these: an image that is read when it is decoded, so that a
data set may be larger than memory."""


@dataclass(frozen=True)
class Columns:
    """The names of the columns to read; `blank` says that texts may be empty, which is an error otherwise.

    `pair` is the column of each text's second half, where texts come in pairs; `answer` that of the answers to texts
    that are prompts.
    """

    text: str = "text"
    pair: str = ""
    answer: str = ""
    image: str = "image"
    label: str = "label"
    client: str = "client"
    blank: bool = False


@dataclass(frozen=True)
class Rows:
    """Rows of one split; `places` says of each row where it was read, for messages.

    `numbers` are what is to be told of each row, where that is a number and no class.
    """

    samples: tuple[Sample, ...]
    labels: tuple[str, ...]
    places: tuple[str, ...]
    clients: tuple[str, ...] | None = None
    numbers: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, pairs: Iterable[tuple[Sample, object]], place: str) -> Rows:
        """Rows from pairs of a sample and its label; the place of a file is its path, else the row's number.

        >>> Rows.of([("how are you", "greeting"), ("see you", "farewell")], "talk.txt").places
        ('talk.txt, row 1', 'talk.txt, row 2')
        """
        pairs = list(pairs)
        return cls(
            samples=tuple(sample for sample, _ in pairs),
            labels=tuple(str(label) for _, label in pairs),
            places=tuple(
                str(sample) if isinstance(sample, Path) else f"{place}, row {number}"
                for number, (sample, _) in enumerate(pairs, start=1)
            ),
        )

    def take(self, indices: Sequence[int]) -> Rows:
        """These rows, in this order."""
        return Rows(
            samples=tuple(self.samples[i] for i in indices),
            labels=tuple(self.labels[i] for i in indices),
            places=tuple(self.places[i] for i in indices),
            clients=None if self.clients is None else tuple(self.clients[i] for i in indices),
            numbers=None if self.numbers is None else tuple(self.numbers[i] for i in indices),
        )


@dataclass(frozen=True)
class Splits:
    """All that was read: `test` is None where there is none, `order` its own order of classes, if any.

    `note` is what the user should know of the reading, such as rows that were left out.
    """

    train: Rows
    test: Rows | None = None
    order: tuple[str, ...] = ()
    note: str = ""

    @property
    def modality(self) -> Literal["image", "text", "language"]:
        """Texts are strings, alone or in pairs, prompts are language; whatever else a sample is, it is an image."""
        sample = next(iter(self.train.samples or (self.test.samples if self.test else ())), "")
        if isinstance(sample, Prompt):
            return "language"
        return "text" if isinstance(sample, (str, tuple)) else "image"


def concatenated(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts in order; clients are known only where every part knows them."""
    clients = [part.clients for part in parts]
    return Rows(
        samples=tuple(sample for part in parts for sample in part.samples),
        labels=tuple(label for part in parts for label in part.labels),
        places=tuple(place for part in parts for place in part.places),
        clients=tuple(c for part in clients for c in part or ()) if None not in clients else None,
    )


def natural(names: Iterable[str]) -> list[str]:
    """The names sorted as a person would: numbers by value, also inside names.

    >>> natural(["class10", "class9", "Class1"]), natural(["10", "-1", "9"])
    (['Class1', 'class9', 'class10'], ['-1', '9', '10'])
    """
    names = list(names)
    if all(re.fullmatch(r"[+-]?\d+(\.\d+)?", name) for name in names):
        return sorted(names, key=lambda name: (float(name), name))
    return sorted(names, key=lambda name: (_parts(name), name))


def _parts(name: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.casefold())]
