"""Commonsense-170k and its eight tests, in the instruction format of LLM-Adapters (Hu et al., EMNLP 2023).

The mixed training file does not say which test a sample belongs to. Its wording does, but for ARC and OpenBookQA, whose
samples are worded alike: they are one category of it, but for the few with three answers, which are worded as those of
SIQA. Files of one test's training samples tell their own category.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fedbraid.data.files import MissingFile
from fedbraid.data.layouts.records import Record, hub_records, records
from fedbraid.data.prompts import Prompt
from fedbraid.data.rows import Rows, Splits, concatenated

HUB = "zwhe99/commonsense_170k"
TESTS = ("boolq", "piqa", "social_i_qa", "hellaswag", "winogrande", "ARC-Easy", "ARC-Challenge", "openbookqa")
MIXED = "commonsense_170k.json"
_FIELDS = ("instruction", "output")

_WORDINGS = (
    ("true/false", "boolq"),
    ("solution1/solution2", "piqa"),
    ("answer1/answer2/answer3", "social_i_qa"),
    ("ending1/ending2/ending3/ending4", "hellaswag"),
    ("option1/option2", "winogrande"),
)
"""The answers that a test asks for, which end its prompts."""
_ALIKE = "ARC and OpenBookQA"


def commonsense(path: Path) -> Splits:
    """The mixed file, or the tests' own training files, and every test that is there, as `<test>/test.json`.

    Files may also be called `<test>.train.json` and `<test>.test.json`.
    """
    tests = {name: file for name in TESTS if (file := _file(path, name, "test"))}
    if not tests:
        raise MissingFile(f"there is no <test>/test.json in {path} of any of the tests {', '.join(TESTS)}")
    missing = [name for name in TESTS if name not in tests]
    notes = [f"not tested on {', '.join(missing)}, of which there is no test file"] if missing else []
    mixed = next((file for file in (path / "ft-training_set" / MIXED, path / MIXED) if file.is_file()), None)
    if mixed:
        train = _by_wording(records(mixed, *_FIELDS), mixed.name)
    else:
        own = {name: file for name in TESTS if (file := _file(path, name, "train"))}
        if not own:
            raise MissingFile(f"there is no {path / MIXED} and no <test>/train.json of any of the tests")
        train = concatenated([_rows(records(file, *_FIELDS), name) for name, file in own.items()])
        notes.append(f"there is no {MIXED}: trained on the training samples of {', '.join(own)}")
    test = concatenated([_rows(records(file, *_FIELDS), name) for name, file in tests.items()])
    return Splits(train, test, note="; ".join(notes))


def commonsense_hub() -> Splits:
    """The mixed training samples from the hub, which has no tests: a share of them is held out."""
    note = "the tests are not on the hub: name a folder that holds them with data.path"
    return Splits(_by_wording(hub_records(HUB, "train", *_FIELDS), HUB), note=note)


def _file(path: Path, name: str, part: str) -> Path | None:
    places = (path / "dataset" / name / f"{part}.json", path / name / f"{part}.json", path / f"{name}.{part}.json")
    return next((file for file in places if file.is_file()), None)


def _rows(found: Iterable[Record], name: str) -> Rows:
    return Rows.of([(_prompt(row), name) for row in found], name)


def _by_wording(found: Iterable[Record], place: str) -> Rows:
    return Rows.of([(_prompt(row), _category(row["instruction"])) for row in found], place)


def _prompt(row: Record) -> Prompt:
    beside = str(row.get("input") or "")
    return Prompt(f"{row['instruction']}\n\n{beside}" if beside.strip() else row["instruction"], (row["output"],))


def _category(instruction: str) -> str:
    asked = instruction.rpartition("Answer format:")[2].strip()
    return next((name for wording, name in _WORDINGS if asked == wording), _ALIKE)
