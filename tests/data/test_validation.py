import pytest

from fedbraid.data import load
from fedbraid.data.sampling import held_out
from fedbraid.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Training rows of three classes, 20, 10 and 1 of them, and one test row of each."""
    rows = [(f"{label} {i}", label) for label, count in (("a", 20), ("b", 10), ("c", 1)) for i in range(count)]
    write(tmp_path / "train.csv", rows)
    write(tmp_path / "test.csv", [(f"{label} test", label) for label in "abc"])
    return tmp_path


def write(file, rows):
    file.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))


def test_validation_comes_from_training_and_the_test_rows_are_untouched(folder):
    plain, data = load(folder), load(folder, validation_fraction=0.2)
    assert sorted(data.train.texts + data.test.texts) == sorted(plain.train.texts)
    assert not set(data.test.texts) & set(plain.test.texts)
    assert data.test.labels.bincount(minlength=3).tolist() == [4, 2, 0]
    assert data.train.labels.bincount(minlength=3).tolist() == [16, 8, 1]
    assert data.class_names == plain.class_names
    assert data.note == (
        "validation: 6 of 31 samples, 20% of each class, held out from training in place of the test samples"
    )
    assert data.fingerprint != plain.fingerprint


def test_the_choice_is_a_function_of_the_data_and_the_seed(folder):
    first, again, other = (load(folder, validation_fraction=0.3, seed=seed).test.texts for seed in (0, 0, 1))
    assert first == again != other
    fewer = load(folder, validation_fraction=0.3, classes=["b", "c"], train_per_class=2, test_fraction=0.9)
    assert fewer.test.texts == tuple(text for text in first if text.startswith("b"))
    assert fewer.train.labels.bincount().tolist() == [2, 1]


def test_without_a_test_split_both_shares_are_held_out(tmp_path, folder):
    (folder / "test.csv").unlink()
    plain, data = load(folder), load(folder, validation_fraction=0.25)
    assert sorted(data.train.texts + data.test.texts) == sorted(plain.train.texts)
    assert [note.partition(":")[0] for note in data.note.split("; ")] == ["no test split", "validation"]


def test_shares_for_two_purposes_are_drawn_apart():
    labels = ["a"] * 40
    assert held_out(labels, 0.5, 0) == held_out(labels, 0.5, 0, "held out") != held_out(labels, 0.5, 0, "validation")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_the_fraction_lies_between_none_and_all(folder, fraction):
    with pytest.raises(UserError, match=r"data\.validation_fraction is"):
        load(folder, validation_fraction=fraction)
