"""What a data set is measured by, and its labels as numbers where that asks for numbers."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import replace

from fedbraid.data.prompts import OF_ANSWERS
from fedbraid.data.rows import Rows, Splits
from fedbraid.errors import UserError
from fedbraid.evaluation import OF_CLASSES, OF_NUMBERS

VALUE = "value"
"""The one class of a data set whose samples have numbers."""


def of_numbers(scores: Sequence[str]) -> bool:
    """Whether numbers are to be told, and no classes.

    >>> of_numbers(["pearson", "spearman"]), of_numbers(["accuracy"])
    (True, False)
    """
    return any(name in OF_NUMBERS for name in scores)


def check_scores(scores: Sequence[str], *, language: bool = False) -> tuple[str, ...]:
    """The scores of texts or images that are to be told classes or numbers of, or else of texts that are written.

    `UserError` where there is no such.
    """
    known = OF_ANSWERS if language else OF_CLASSES + OF_NUMBERS
    for name in scores:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"data.scores: there is no score {name!r}; {hint}known are {', '.join(known)}")
    if not scores or len(set(scores)) < len(scores):
        raise UserError(f"data.scores is {list(scores)}; name at least one score, and each once")
    if of_numbers(scores) and not all(name in OF_NUMBERS for name in scores):
        raise UserError(
            f"data.scores is {list(scores)}: {', '.join(OF_NUMBERS)} measure numbers, the others classes; "
            "a data set has one of them"
        )
    return tuple(scores)


def check_classes(scores: Sequence[str], class_names: Sequence[str]) -> None:
    """`UserError` where a score has no meaning for so many classes."""
    if "f1" in scores and len(class_names) != 2:
        raise UserError(
            f"data.scores: f1 is that of the second of two classes, and there are {len(class_names)}; take macro_f1"
        )


def numbered(splits: Splits) -> Splits:
    """The labels read as numbers, all rows in one class."""
    test = None if splits.test is None else _numbered(splits.test)
    return Splits(_numbered(splits.train), test, (), splits.note)


def _numbered(rows: Rows) -> Rows:
    found = tuple(_number(label, place) for label, place in zip(rows.labels, rows.places, strict=True))
    return replace(rows, labels=(VALUE,) * len(rows), numbers=found)


def _number(label: str, place: str) -> float:
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{place}: {label!r} is no number, and data.scores asks for numbers; mend it, or name others")
    return number
