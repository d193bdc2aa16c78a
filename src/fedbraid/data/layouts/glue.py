"""The tasks of GLUE as they are published: tab-separated files, no quoting, each task with its own columns.

A folder is that of GLUE (train.tsv, dev.tsv), or of the data set's own authors: CoLA's in_domain_*.tsv and
out_of_domain_dev.tsv, MRPC's msr_paraphrase_*.txt (also msr-para-*.tsv), SST-2 without a header. GLUE keeps the labels
of its test files to itself, so models are tested on its development files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedbraid.data.files import MissingFile, inside, need
from fedbraid.data.rows import Rows, Splits, concatenated
from fedbraid.errors import UserError

ACCEPTABLE = ("unacceptable", "acceptable")
SENTIMENT = ("negative", "positive")
PARAPHRASE = ("not_equivalent", "equivalent")
DUPLICATE = ("not_duplicate", "duplicate")
ENTAILMENT = ("entailment", "not_entailment")
INFERENCE = ("entailment", "neutral", "contradiction")


Files = Sequence[tuple[str, ...]]
"""The ways in which a split is published, each as the names of its files."""


@dataclass(frozen=True)
class Fields:
    """Where a line holds its text, the text's second half where there is one, and its label.

    A file without a header has the columns `bare`. `classes` are the names in order, by which or by whose numbers a
    file labels its lines; there are none where a label is a value.
    """

    text: str
    pair: str = ""
    label: str = "label"
    bare: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


def cola(path: Path) -> Splits:
    """CoLA: the authors' two development files, in and out of domain, are GLUE's one."""
    fields = Fields("sentence", bare=("source", "label", "star", "sentence"), classes=ACCEPTABLE)
    trains = (("train.tsv",), ("in_domain_train.tsv",))
    tests = (("dev.tsv",), ("in_domain_dev.tsv", "out_of_domain_dev.tsv"))
    return _splits(inside(path, "CoLA", "raw", "cola_public/raw"), fields, trains, tests)


def sst2(path: Path) -> Splits:
    """SST-2: whole sentences, or GLUE's phrases for training."""
    fields = Fields("sentence", bare=("sentence", "label"), classes=SENTIMENT)
    return _splits(inside(path, "SST-2"), fields)


def mrpc(path: Path) -> Splits:
    """MRPC: GLUE's development file, or the test file that its authors publish with labels."""
    fields = Fields("#1 String", "#2 String", label="Quality", classes=PARAPHRASE)
    trains = (("train.tsv",), ("msr_paraphrase_train.txt",), ("msr-para-train.tsv",))
    tests = (("dev.tsv",), ("msr_paraphrase_test.txt",), ("msr-para-test.tsv",))
    return _splits(inside(path, "MRPC"), fields, trains, tests)


def qqp(path: Path) -> Splits:
    """Quora question pairs, without the few lines that lack a field."""
    fields = Fields("question1", "question2", label="is_duplicate", classes=DUPLICATE)
    return _splits(inside(path, "QQP"), fields, torn=True)


def qnli(path: Path) -> Splits:
    """QNLI: whether a sentence answers a question."""
    return _splits(inside(path, "QNLI"), Fields("question", "sentence", classes=ENTAILMENT))


def rte(path: Path) -> Splits:
    """RTE: whether one sentence follows from another."""
    return _splits(inside(path, "RTE"), Fields("sentence1", "sentence2", classes=ENTAILMENT))


def mnli(path: Path) -> Splits:
    """MNLI, tested on the matched development file: genres that occur in training."""
    fields = Fields("sentence1", "sentence2", label="gold_label", classes=INFERENCE)
    return _splits(inside(path, "MNLI"), fields, tests=(("dev_matched.tsv",),))


def stsb(path: Path) -> Splits:
    """STS-B: how alike two sentences are, from 0 to 5."""
    return _splits(inside(path, "STS-B"), Fields("sentence1", "sentence2", label="score"))


def _splits(
    folder: Path,
    fields: Fields,
    trains: Files = (("train.tsv",),),
    tests: Files = (("dev.tsv",),),
    *,
    torn: bool = False,
) -> Splits:
    """The rows of both splits; with `torn` lines that lack fields are left out and counted."""
    parts = [[_rows(file, fields, torn) for file in _files(folder, ways)] for ways in (trains, tests)]
    lost = sum(count for split in parts for _, count in split)
    train, test = (concatenated([rows for rows, _ in split]) for split in parts)
    return Splits(train, test, fields.classes, f"{lost} lines without all fields left out" if lost else "")


def _files(folder: Path, ways: Files) -> list[Path]:
    """The files of the first way whose first file is there."""
    for way in ways:
        if (folder / way[0]).is_file():
            return [need(folder / name) for name in way]
    raise MissingFile(f"there is no {' and no '.join(str(folder / way[0]) for way in ways)}")


def _rows(file: Path, fields: Fields, torn: bool) -> tuple[Rows, int]:
    """The rows of a file, and how many of its lines lack fields."""
    lines = _lines(file)
    columns, header = _columns(file, lines[0][1], fields)
    found: list[tuple[str | tuple[str, str], str]] = []
    places: list[str] = []
    for number, line in lines[header:]:
        if len(line) > max(columns):
            *texts, label = (line[column].strip() for column in columns)
            found.append(((texts[0], texts[1]) if fields.pair else texts[0], _label(label, fields, file, number)))
            places.append(f"{file.name}, line {number}")
        elif not torn:
            raise UserError(f"{file}, line {number} has {len(line)} fields, not {max(columns) + 1}; get it anew")
    return replace(Rows.of(found, file.name), places=tuple(places)), len(lines) - header - len(found)


def _columns(file: Path, first: Sequence[str], fields: Fields) -> tuple[list[int], bool]:
    """(the columns of text, pair and label, whether the first line is a header)."""
    header = fields.text in first and fields.label in first
    names = first if header else fields.bare
    if not names:
        raise UserError(f"{file}: its first line names no columns {fields.text!r} and {fields.label!r}; get it anew")
    return [names.index(name) for name in (fields.text, fields.pair, fields.label) if name], header


def _label(label: str, fields: Fields, file: Path, number: int) -> str:
    """The name of the class, or the value as it stands."""
    if not fields.classes or label in fields.classes:
        return label
    if label.isdecimal() and int(label) < len(fields.classes):
        return fields.classes[int(label)]
    raise UserError(f"{file}, line {number}: the label {label!r} is none of {', '.join(fields.classes)}; get it anew")


def _lines(file: Path) -> list[tuple[int, list[str]]]:
    """(number, fields) of the lines that are not empty.

    Sentences hold characters that Python takes for the end of a line, so lines are cut at newlines alone.
    """
    try:
        content = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as text ({error}); get it anew") from error
    lines = enumerate((line.removesuffix("\r") for line in content.split("\n")), start=1)
    found = [(number, line.split("\t")) for number, line in lines if line.strip()]
    if not found:
        raise UserError(f"{file} is empty; get it anew")
    return found
