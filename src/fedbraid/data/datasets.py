"""Data sets as tensors: `load` reads any source, numbers its classes and gives a train and a test table."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedbraid.data.archives import is_archive, unpacked
from fedbraid.data.folders import read_path
from fedbraid.data.held import Dataset, fingerprint_of, tables_of
from fedbraid.data.known import DATASETS, holds_prompts, source_of
from fedbraid.data.rows import Columns, Rows, Splits, natural
from fedbraid.data.sampling import held_out, in_proportion, per_class
from fedbraid.data.scored import VALUE, check_classes, check_scores, numbered, of_numbers
from fedbraid.data.sources import Source, read_source
from fedbraid.errors import UserError

TEST_SEED = 0
"""Chooses test samples where the data do not."""


@dataclass(frozen=True)
class Here:
    """One place of several that hold samples of the same data set, each its own.

    `classes` are all there are, in their order, for every place alike: some may have no samples here, and samples of
    other classes are left out until a later task brings them. Without it the classes are those found here. Test
    samples are read, or held out, where they are `tested`.
    """

    classes: tuple[str, ...] = ()
    tested: bool = True


def load(
    name: str | Path,
    *,
    path: str | Path | None = None,
    text_column: str | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    category_column: str | None = None,
    pair_column: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    client_column: str | None = None,
    classes: int | Sequence[str | int] | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    train_samples: int | None = None,
    test_samples: int | None = None,
    test_fraction: float = 0.2,
    validation_fraction: float | None = None,
    scores: Sequence[str] | None = None,
    stored_size: int = 256,
    seed: int = 0,
    here: Here | None = None,
) -> Dataset:
    """A data set known by name (`DATASETS`), or the user's own: an image folder, a table, "file.py:NAME".

    `path` is a local copy of a known data set, a folder or an archive. `classes` keeps the first n classes, or those
    listed by name or number (in the data set's order). `train_per_class` and `test_per_class` keep at most so many
    samples of each class, `train_samples` and `test_samples` so many in all, the classes in proportion. Where there is
    no test split, the stratified `test_fraction` is held out. With `validation_fraction` that share of the training
    samples takes the place of the test samples, which are left untouched: for choosing settings. What is held out and
    kept of the training samples is a function of `seed`; the test samples are the same for every seed, so that runs can
    be compared. With an `answer_column` a table of one's own holds prompts with their answers (in the column `prompt`
    where none is named), and what a `category_column` tells are its classes. `scores` are what models are measured by:
    those of the data set, or accuracy, where nothing is given; those of numbers make numbers of the labels.
    `stored_size` bounds the shorter side of the images held in memory. `here` says that these are the samples of one
    place among several.

    >>> digits = load("digits", classes=4)
    >>> digits.class_names, tuple(digits.train.images.shape)
    (('0', '1', '2', '3'), (576, 1, 8, 8))
    """
    source, language = source_of(str(name)), holds_prompts(str(name), answer_column)
    fractions = {"test_fraction": test_fraction, "validation_fraction": validation_fraction}
    counts = {"train_per_class": train_per_class, "test_per_class": test_per_class, "stored_size": stored_size}
    samples = {"train_samples": train_samples, "test_samples": test_samples}
    _check_numbers(classes, counts | samples, fractions, 1 if language else 2)
    text = prompt_column or text_column or ("prompt" if language and not source else None)
    named = {"text": text, "pair": pair_column, "image": image_column, "answer": answer_column}
    named |= {"label": category_column or label_column, "client": client_column}
    usual = source.scores if source else Dataset.scores
    measured = check_scores(usual if scores is None else scores, language=language)
    title, splits = _read(source, name, path, {key: value for key, value in named.items() if value is not None})
    splits = numbered(splits) if of_numbers(measured) else splits
    if here and not here.tested:
        splits, validation_fraction = replace(splits, test=splits.train.take([])), None
    train, test, notes = _split(splits, test_fraction, validation_fraction, seed, empty=here is not None)
    if here and here.classes:
        names = here.classes
    else:
        shown = train or test
        known = (VALUE,) if of_numbers(measured) else _class_names(shown, test, splits.order, categories=language)
        names = _chosen(known, classes, source)
    check_classes(measured, names)
    held = len(train)
    train = _subset(train, names, train_per_class, train_samples, seed, "train", empty=here is not None)
    test = _subset(test, names, test_per_class, test_samples, TEST_SEED, "test", empty=here is not None)
    train_table, test_table = tables_of(splits.modality, names, train, test, stored_size)
    fingerprint = fingerprint_of(names, train_table, test_table)
    return Dataset(
        title, splits.modality, names, train_table, test_table, fingerprint, held, "; ".join(notes), measured
    )


def _check_numbers(
    classes: int | Sequence[str | int] | None,
    counts: Mapping[str, int | None],
    fractions: Mapping[str, float | None],
    least: int,
) -> None:
    for key, count in counts.items():
        if count is not None and count < 1:
            raise UserError(f"data.{key} is {count}; it must be 1 or more")
    for key, fraction in fractions.items():
        if fraction is not None and not 0 < fraction < 1:
            raise UserError(f"data.{key} is {fraction}; it must lie between 0 and 1")
    if classes is not None and (classes if isinstance(classes, int) else len(classes)) < least:
        raise UserError(f"data.classes is {classes!r}; a data set needs at least {('one', 'two')[least - 1]}")


def _read(
    source: Source | None, name: str | Path, path: str | Path | None, named: Mapping[str, str]
) -> tuple[str, Splits]:
    local = None if path is None else Path(path).expanduser()
    if local is not None and not local.exists():
        raise UserError(f"data.path: there is no file or folder {local}")
    if source is not None:
        return source.name, read_source(source, None if local is None else _folder(local), named)
    if local is not None:
        raise UserError(
            f"data.path goes with a known data set ({', '.join(DATASETS)}), not with {str(name)!r}; "
            "to read your own data, give its path as the data set's name"
        )
    own = Path(name).expanduser()
    if not own.exists():
        raise _unknown(str(name))
    return own.stem, read_path(_folder(own), replace(Columns(), **named))


def _folder(path: Path) -> Path:
    return unpacked(path) if is_archive(path) else path


def _unknown(name: str) -> UserError:
    if "/" in name or "\\" in name or Path(name).suffix:
        return UserError(f"there is no file or folder {name}; give a path, or one of {', '.join(DATASETS)}")
    near = difflib.get_close_matches(name, DATASETS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    known = ", ".join(DATASETS)
    return UserError(f"there is no data set {name!r}; {hint}known are {known}; for your own data give its path")


def _split(
    splits: Splits, test_fraction: float, validation_fraction: float | None, seed: int, *, empty: bool
) -> tuple[Rows, Rows, list[str]]:
    """(training rows, rows to test on, what the user should know of them); training rows may be lacking if `empty`."""
    if not splits.train and not (empty and splits.test):
        raise UserError("the training data has no samples; check what data.name and data.path lead to")
    train, test, notes = splits.train, splits.test, [splits.note] if splits.note else []
    if test is None:
        train, test, share = _parted(train, test_fraction, TEST_SEED, "held out")
        notes.append(f"no test split: {share}, held out for testing")
    if validation_fraction is not None:
        train, test, share = _parted(train, validation_fraction, seed, "validation")
        notes.append(f"validation: {share}, held out from training in place of the test samples")
    return train, test, notes


def _parted(rows: Rows, fraction: float, seed: int, purpose: str) -> tuple[Rows, Rows, str]:
    """(what is kept, a stratified share that is held out, that share in words)."""
    kept, held = held_out(rows.labels, fraction, seed, purpose)
    if not held:
        raise UserError("no class has a second sample to hold out; add samples, or test data where there are none")
    return rows.take(kept), rows.take(held), f"{len(held)} of {len(rows)} samples, {fraction:.0%} of each class"


def _class_names(train_rows: Rows, test: Rows, order: tuple[str, ...], *, categories: bool) -> tuple[str, ...]:
    """The classes that training brings, in the data's own order where it has one.

    Of `categories` of prompts nothing is learned, so there may be one alone, or one that is only tested.
    """
    train = set(train_rows.labels)
    if categories:
        return tuple(natural(train | set(test.labels)))
    for label, place in zip(test.labels, test.places, strict=True):
        if label not in train:
            raise UserError(
                f"{place}: the test label {label!r} never occurs in training; "
                "add training samples of this class or take it out of the test data"
            )
    if len(train) < 2:
        raise UserError(f"the training data has only the class {min(train)!r}; at least two are needed")
    missing = train.difference(order)
    if order and missing:
        raise UserError(f"the data's order of classes leaves out {min(missing)!r}, which has samples; add it there")
    return tuple(name for name in dict.fromkeys(order) if name in train) or tuple(natural(train))


def _chosen(
    names: tuple[str, ...], classes: int | Sequence[str | int] | None, source: Source | None
) -> tuple[str, ...]:
    if classes is None:
        return names[: source.classes] if source is not None and source.subset else names
    if isinstance(classes, int):
        if classes > len(names):
            raise UserError(f"data.classes asks for {classes} classes, the data set has {len(names)}")
        return names[:classes]
    wanted = {class_id(item, names, "data.classes") for item in classes}
    if len(wanted) < len(classes):
        raise UserError(f"data.classes names a class twice: {list(classes)}")
    return tuple(names[index] for index in sorted(wanted))


def class_id(item: str | int, names: Sequence[str], where: str) -> int:
    """The number of a class given by name or number; a name wins. An error says `where` it was asked for."""
    if str(item) in names:
        return names.index(str(item))
    if re.fullmatch(r"[0-9]{1,18}", str(item)) and int(item) < len(names):
        return int(item)
    near = difflib.get_close_matches(str(item), names, n=3)
    raise UserError(
        f"{where}: there is no class {item!r} with training samples"
        + (f"; did you mean {' or '.join(map(repr, near))}?" if near else f" among the {len(names)} classes")
    )


def _subset(
    rows: Rows,
    names: tuple[str, ...],
    of_each: int | None,
    of_all: int | None,
    seed: int,
    split: str,
    *,
    empty: bool,
) -> Rows:
    kept = set(names)
    rows = rows.take([i for i, label in enumerate(rows.labels) if label in kept])
    if not rows and not empty:
        raise UserError(f"there are no {split} samples of the classes to keep; add some, or mend data.classes")
    rows = rows if of_each is None else rows.take(per_class(rows.labels, of_each, seed, split))
    return rows if of_all is None else rows.take(in_proportion(rows.labels, of_all, seed, split))
