import re
from pathlib import Path

import pytest

from fedbraid.data import DATASETS, load, source_of
from fedbraid.errors import UserError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "my_dataset.py"
TOPICS = f"{EXAMPLE}:TOPICS"

HEAD = """
from pathlib import Path
import numpy as np
from fedbraid.data import Rows, Source, Splits

def pixels(path=None):
    return Splits(Rows.of([(np.full((4, 4), i, dtype=np.uint8), i % 3) for i in range(12)], "made here"))
"""


@pytest.fixture
def topics(tmp_path):
    for split, count in (("train", 5), ("test", 2)):
        (tmp_path / split).mkdir()
        for topic in ("sport", "art"):
            lines = [f"{topic} {split} {number}" for number in range(count)]
            (tmp_path / split / f"{topic}.txt").write_text("\n\n".join(lines))
    return tmp_path


def own(folder, line, head=HEAD):
    """A reference to what `line` gives the name SET."""
    file = folder / "own.py"
    file.write_text(f"{head}\nSET = {line}\n")
    return f"{file}:SET"


def test_the_example_reads(topics):
    data = load(TOPICS, path=topics)
    assert (data.name, data.modality, data.class_names, data.note) == ("topics", "text", ("art", "sport"), "")
    assert data.train.texts[:2] == ("art train 0", "art train 1")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0] * 5 + [1] * 5, [0, 0, 1, 1])


def test_the_page_shows_the_example():
    assert EXAMPLE.read_text() in (ROOT / "docs" / "add-a-dataset.md").read_text()


def test_the_example_says_what_is_missing(topics):
    for file in (topics / "test").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"test has no \.txt files"):
        load(TOPICS, path=topics)
    with pytest.raises(UserError, match=r"topics comes from a file or folder of yours; .*--set data\.path=FOLDER"):
        load(TOPICS)


def test_a_name_is_known_or_a_reference_or_neither():
    assert source_of("cifar10") is DATASETS["cifar10"]
    assert source_of(TOPICS).tasks == 2
    assert source_of("rows.csv") is None


def test_data_that_need_no_file(tmp_path):
    data = load(own(tmp_path, "Source('made', 'image', classes=3, tasks=1, built_in=pixels)"))
    assert (data.class_names, data.train.images.shape) == (("0", "1", "2"), (9, 1, 4, 4))
    assert "no test split" in data.note


def test_a_subset_keeps_its_first_classes_unless_others_are_asked_for(tmp_path):
    name = own(tmp_path, "Source('made', 'image', classes=2, tasks=1, built_in=pixels, subset=True)")
    assert load(name).class_names == ("0", "1")
    assert load(name, classes=3).class_names == ("0", "1", "2")
    assert load(name, classes=["0", "2"]).class_names == ("0", "2")


def test_classes_come_in_the_order_of_the_reader(tmp_path):
    splits = "Splits(pixels().train, order='2901', note='made here')"
    data = load(own(tmp_path, f"Source('made', 'image', 3, 1, built_in=lambda: {splits})"))
    assert data.class_names == ("2", "0", "1")
    assert data.note.startswith("made here; no test split")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Source('made', 'image', 3, 1, built_in=lambda: Splits(pixels().train, order='02'))", "leaves out '1'"),
        ("pixels", r"own\.py:SET is a function; a data set of your own is a fedbraid\.data\.Source"),
        ("Source('made', 'text', 3, 1, built_in=pixels)", "says that it holds texts, but its reader gives images"),
        ("Source('made', 'image', 3, 1, built_in=dict)", "its reader gives a dict"),
        ("Source('made', 'image', 3, 1, built_in=lambda: Splits(Rows.of([], 'nowhere')))", "has no samples"),
        ("Source('made', 'image', 3, 1, built_in=lambda: Splits(Rows.of([([1], 0), ([2], 1)] * 2, 'l')))", "l, row 1"),
    ],
)
def test_what_a_source_must_be(tmp_path, line, message):
    with pytest.raises(UserError, match=message):
        load(own(tmp_path, line))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.py:SET", "there is no file .*missing.py"),
        ("own.py:OTHER", "has no 'OTHER'"),
    ],
)
def test_references_that_lead_nowhere(tmp_path, name, message):
    own(tmp_path, "None")
    with pytest.raises(UserError, match=message):
        load(f"{tmp_path}/{name}")


def test_a_file_that_fails_is_named(tmp_path):
    with pytest.raises(UserError, match=re.escape("own.py cannot be loaded: ZeroDivisionError")):
        load(own(tmp_path, "1 / 0"))
