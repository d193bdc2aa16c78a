import json
import os

import pytest

from fedbraid.data import load
from fedbraid.errors import UserError

ROWS = [(f"text {i}", "yes" if i % 2 else "no", f"site{i % 3}") for i in range(12)]


def write(path, rows=ROWS, names=("text", "label", "client")):
    """The rows as a file of the kind that the name says."""
    records = [dict(zip(names, row, strict=True)) for row in rows]
    if path.suffix in (".csv", ".tsv"):
        import csv

        with path.open("w", newline="") as stream:
            csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([names, *rows])
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".json":
        path.write_text(json.dumps(records))
    else:
        import datasets

        datasets.Dataset.from_list(records).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_every_kind_of_table_reads_alike(tmp_path, suffix):
    data = load(write(tmp_path / f"own.{suffix}"))
    assert (data.name, data.modality, data.class_names) == ("own", "text", ("no", "yes"))
    assert (len(data.train), len(data.test)) == (10, 2)
    assert set(data.train.texts + data.test.texts) == {row[0] for row in ROWS}
    assert set(data.train.clients) == {"site0", "site1", "site2"}
    assert "2 of 12 samples" in data.note
    for text, label, client in zip(data.train.texts, data.train.labels.tolist(), data.train.clients, strict=True):
        assert (text, data.class_names[label], client) in ROWS


def test_kinds_have_one_fingerprint(tmp_path):
    prints = {load(write(tmp_path / f"own.{suffix}")).fingerprint for suffix in ("csv", "jsonl", "parquet")}
    assert len(prints) == 1
    assert prints != {load(write(tmp_path / "own.csv", ROWS[1:])).fingerprint}


def test_nothing_is_written_beside_the_file(tmp_path):
    load(write(tmp_path / "own.csv"))
    assert [entry.name for entry in os.scandir(tmp_path)] == ["own.csv"]


def test_a_path_with_wildcards_is_a_plain_path(tmp_path):
    folder = tmp_path / "a[1]*"
    folder.mkdir()
    assert len(load(write(folder / "b[2].csv")).train) == 10


def test_a_folder_with_test_files(tmp_path):
    write(tmp_path / "train-0.csv", ROWS[:4])
    write(tmp_path / "train-1.csv", ROWS[4:8])
    write(tmp_path / "test.csv", ROWS[8:11])
    write(tmp_path / "validation.csv", ROWS[11:])
    data = load(tmp_path)
    assert data.train.texts == tuple(f"text {i}" for i in range(8))
    assert data.test.texts == ("text 8", "text 9", "text 10")
    assert data.note == ""


def test_validation_serves_as_test(tmp_path):
    write(tmp_path / "train.csv", ROWS[:8])
    write(tmp_path / "val.csv", ROWS[8:])
    assert len(load(tmp_path).test) == 4


def test_columns_can_be_renamed(tmp_path):
    write(tmp_path / "own.csv", names=("question", "topic", "site"))
    data = load(tmp_path / "own.csv", text_column="question", label_column="topic", client_column="site")
    assert data.class_names == ("no", "yes")
    assert data.train.clients is not None
    assert load(tmp_path / "own.csv", text_column="question", label_column="topic").train.clients is None


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([10, 9, -1], ("-1", "9", "10")),
        (["b10", "b9", "A"], ("A", "b9", "b10")),
        ([1.0, 0.5, 2.0], ("0.5", "1", "2")),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_class_names_sort_as_a_person_would(tmp_path, labels, names, suffix):
    rows = [(f"t{i}", label) for i, label in enumerate(labels * 3)]
    assert load(write(tmp_path / f"own.{suffix}", rows, ("text", "label"))).class_names == names


def test_words_that_mean_missing_elsewhere_are_words(tmp_path):
    rows = [("null", "NA"), ("None", "nan"), ("NA", "NA"), ("n/a", "nan")]
    assert set(load(write(tmp_path / "own.csv", rows, ("text", "label"))).class_names) == {"NA", "nan"}


def test_declared_classes_keep_their_order(tmp_path):
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "y", "unused", "a"])}
    )
    rows = {"text": list("abcdef"), "label": [0, 1, 3] * 2}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "own.parquet")
    data = load(tmp_path / "own.parquet")
    assert data.class_names == ("z", "y", "a")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "x"), ("  ", "y")], "own.csv, row 2: the text is empty"),
        ([("a", "x"), ("b", "")], "own.csv, row 2: the label is empty"),
        ([("a", "x"), ("b", "x")], "only the class 'x'"),
        ([("a", "x"), ("b", "y")], "no class has a second sample"),
        ([], "own.csv cannot be read as csv with rows"),
    ],
)
def test_rows_that_are_refused(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        load(write(tmp_path / "own.csv", rows, ("text", "label")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"label_column": "topic"},
            r"no column 'topic', its columns are \['text', 'label', 'client'\]; set data.label",
        ),
        ({"text_column": "question"}, "neither 'question' nor 'image'.*data.text_column"),
        ({"client_column": "site"}, "no column 'site'.*data.client_column"),
        ({"classes": ["maybe", "yes"]}, "no class 'maybe'"),
        ({"classes": ["yes", "yes"]}, "twice"),
        ({"classes": 3}, "asks for 3 classes"),
        ({"classes": 1}, "at least two"),
        ({"train_per_class": 0}, "data.train_per_class is 0"),
        ({"test_fraction": 1.0}, "data.test_fraction"),
        ({"path": "."}, "data.path goes with a known data set"),
    ],
)
def test_options_that_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        load(write(tmp_path / "own.csv"), **options)


@pytest.mark.parametrize("name", ["own.csv", "own.jsonl", "own.parquet"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00{\x81broken"])
def test_a_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        load(tmp_path / name)


def test_a_test_label_without_training_samples(tmp_path):
    write(tmp_path / "train.csv", ROWS)
    write(tmp_path / "test.csv", [("b", "maybe", "s")])
    with pytest.raises(UserError, match=r"test\.csv, row 1: the test label 'maybe' never occurs in training"):
        load(tmp_path)


def test_folders_that_are_refused(tmp_path):
    write(tmp_path / "rows.csv")
    with pytest.raises(UserError, match="no file name starts with 'train'"):
        load(tmp_path)
    write(tmp_path / "train.csv")
    write(tmp_path / "train.jsonl")
    with pytest.raises(UserError, match="several kinds"):
        load(tmp_path)


def test_both_kinds_of_column(tmp_path):
    write(tmp_path / "own.csv", names=("text", "label", "image"))
    with pytest.raises(UserError, match="has both"):
        load(tmp_path / "own.csv")
    write(tmp_path / "own.csv", names=("caption", "label", "image"))
    assert load(tmp_path / "own.csv", text_column="caption").modality == "text"


def test_held_out_share_is_stratified_and_the_same_for_every_seed(tmp_path):
    rows = [
        (f"{label} {i}", label) for label, count in (("a", 50), ("b", 10), ("c", 2), ("d", 1)) for i in range(count)
    ]
    file = write(tmp_path / "own.csv", rows, ("text", "label"))
    first, again, other = (load(file, seed=seed) for seed in (0, 0, 1))
    assert first.test.labels.bincount(minlength=4).tolist() == [10, 2, 1, 0]
    assert first.fingerprint == again.fingerprint == other.fingerprint
    assert not set(first.train.texts) & set(first.test.texts)


def test_subsets_are_seeded(tmp_path):
    file = write(tmp_path / "own.csv")
    data = load(file, train_per_class=3, test_per_class=1, seed=5)
    assert data.train.labels.bincount().tolist() == [3, 3]
    assert data.test.labels.bincount().tolist() == [1, 1]
    assert data.fingerprint == load(file, train_per_class=3, test_per_class=1, seed=5).fingerprint
