"""Mathematics in words: GSM8K, MATH, and MetaMathQA, which was made of the training samples of both.

What a solution ends in is its answer: after "####" in GSM8K, in \\boxed{} in MATH, after "The answer is:" in
MetaMathQA.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fedbraid.data.files import MissingFile, inside, need, within
from fedbraid.data.layouts.records import Record, hub_records, records
from fedbraid.data.prompts import Prompt
from fedbraid.data.rows import Rows, Splits, concatenated
from fedbraid.progress import track

GSM8K_HUB, MATH_HUB, METAMATH_HUB = "openai/gsm8k", "EleutherAI/hendrycks_math", "meta-math/MetaMathQA"
GSM8K, MATH = "gsm8k", "math"
"""The categories of MetaMathQA and of its tests."""
SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
_GSM8K_FIELDS, _MATH_FIELDS = ("question", "answer"), ("problem", "solution", "type")
_META_FIELDS = ("query", "response", "type")


def gsm8k(path: Path) -> Splits:
    """`train.jsonl` and `test.jsonl`, all of one category."""
    root = inside(path, "grade_school_math/data")
    train, test = (records(root / f"{part}.jsonl", *_GSM8K_FIELDS) for part in ("train", "test"))
    return Splits(_gsm8k(train, "train"), _gsm8k(test, "test"))


def gsm8k_hub() -> Splits:
    """The same from the hub."""
    train, test = (_gsm8k_part(part) for part in ("train", "test"))
    return Splits(train, test)


def math(path: Path) -> Splits:
    """`MATH/train/<subject>/<number>.json` and the same of `test`, by subject."""
    root = inside(path, "MATH")
    train, test = (_math(_problems(root / part), part) for part in ("train", "test"))
    return Splits(train, test)


def math_hub() -> Splits:
    """The same from the hub."""
    train, test = (_math_part(part) for part in ("train", "test"))
    return Splits(train, test)


def metamath(path: Path) -> Splits:
    """`MetaMathQA-395K.json`, tested on what lies beside it: `gsm8k/test.jsonl`, `MATH/test/`, or both."""
    file = next(iter(sorted(path.glob("MetaMathQA*.json"))), path / "MetaMathQA-395K.json")
    train = _metamath(records(need(file), *_META_FIELDS))
    tests: list[Rows] = []
    if (path / "gsm8k" / "test.jsonl").is_file():
        tests.append(_gsm8k(records(path / "gsm8k" / "test.jsonl", *_GSM8K_FIELDS), "gsm8k, test"))
    if (path / "MATH" / "test").is_dir():
        tests.append(_math(_problems(path / "MATH" / "test"), "MATH, test", category=MATH))
    if not tests:
        raise MissingFile(f"there is no {path / 'gsm8k' / 'test.jsonl'} and no {path / 'MATH' / 'test'} to test on")
    return Splits(train, concatenated(tests))


def metamath_hub() -> Splits:
    """The same from the hub, tested on both."""
    train = _metamath(hub_records(METAMATH_HUB, "train", *_META_FIELDS))
    return Splits(train, concatenated([_gsm8k_part("test"), _math_part("test", category=MATH)]))


def _gsm8k_part(part: str) -> Rows:
    return _gsm8k(hub_records(GSM8K_HUB, part, *_GSM8K_FIELDS, config="main"), f"{GSM8K_HUB} {part}")


def _math_part(part: str, category: str = "") -> Rows:
    found = [row for subject in SUBJECTS for row in hub_records(MATH_HUB, part, *_MATH_FIELDS, config=subject)]
    return _math(found, f"{MATH_HUB} {part}", category=category)


def _problems(folder: Path) -> list[Record]:
    files = sorted(need(folder).glob("*/*.json"), key=lambda file: (file.parent.name, len(file.name), file.name))
    if not files:
        raise MissingFile(f"{folder} holds no problems: {folder.name}/<subject>/<number>.json")
    return [row for file in track(files, "reading problems") for row in records(within(file, folder), *_MATH_FIELDS)]


def _gsm8k(found: Iterable[Record], place: str) -> Rows:
    return Rows.of([(Prompt(row["question"], (row["answer"],)), GSM8K) for row in found], place)


def _math(found: Iterable[Record], place: str, category: str = "") -> Rows:
    return Rows.of([(Prompt(row["problem"], (row["solution"],)), category or row["type"]) for row in found], place)


def _metamath(found: Iterable[Record]) -> Rows:
    """Each by the data set that it was made of, as its type says: GSM_Rephrased, MATH_AnsAug."""
    pairs = [
        (Prompt(row["query"], (row["response"],)), MATH if row["type"].startswith("MATH") else GSM8K) for row in found
    ]
    return Rows.of(pairs, "MetaMathQA")
