"""The E2E NLG challenge: what is to be said of a restaurant, and how people said it, in csv files of `mr` and `ref`.

A test sample is one meaning with all of its references, as the challenge scores it; a training sample is one pair.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fedbraid.data.files import inside, need
from fedbraid.data.layouts.records import hub_records, records
from fedbraid.data.prompts import ONE_CLASS, Prompt
from fedbraid.data.rows import Rows, Splits

HUB = "tuetschek/e2e_nlg"


def e2e(path: Path) -> Splits:
    """The training and the test file; where there is no training file, the development file is trained on."""
    root = inside(path, "e2e-dataset")
    train, development = root / "trainset.csv", root / "devset.csv"
    note = ""
    if not train.exists() and development.exists():
        train, note = development, "there is no trainset.csv: devset.csv is trained on"
    parts = [records(need(file), "mr", "ref") for file in (train, root / "testset_w_refs.csv")]
    train_pairs, test_pairs = ([(row["mr"], row["ref"]) for row in part] for part in parts)
    return _splits(train_pairs, test_pairs, note=note)


def e2e_hub() -> Splits:
    """The same from the hub."""
    meaning, said = "meaning_representation", "human_reference"
    parts = [hub_records(HUB, part, meaning, said) for part in ("train", "test")]
    train, test = ([(row[meaning], row[said]) for row in part] for part in parts)
    return _splits(train, test)


def _splits(train: Iterable[tuple[str, str]], test: Iterable[tuple[str, str]], note: str = "") -> Splits:
    single = [(Prompt(meaning, (reference,)), ONE_CLASS) for meaning, reference in train]
    grouped: dict[str, list[str]] = {}
    for meaning, reference in test:
        grouped.setdefault(meaning, []).append(reference)
    joined = [(Prompt(meaning, tuple(references)), ONE_CLASS) for meaning, references in grouped.items()]
    return Splits(Rows.of(single, "training"), Rows.of(joined, "test"), note=note)
