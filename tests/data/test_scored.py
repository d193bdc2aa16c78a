"""Pairs of texts, numbers in the place of classes, scores, and subsets in proportion: from files to batches."""

from __future__ import annotations

import pytest
import torch
from published_glue import GLUE_LAYOUTS, cola_public, glue, mrpc

from fedbraid.core import TextInput
from fedbraid.data import DATASETS, load, make_clients, make_partition, make_stream
from fedbraid.errors import UserError

PAIRS = "question,answer,label,site\n" + "".join(f"q{i},a{i},{i % 2},s{i % 3}\n" for i in range(12))
NUMBERS = "text,label\n" + "".join(f"t{i},{i / 4}\n" for i in range(12))


def own(folder, content, name="own.csv"):
    path = folder / name
    path.write_text(content)
    return path


def test_pairs_come_from_two_columns(tmp_path):
    columns = {"text_column": "question", "pair_column": "answer", "client_column": "site"}
    data = load(own(tmp_path, PAIRS), **columns)
    assert (data.modality, data.scores) == ("text", ("accuracy",))
    assert set(data.train.texts + data.test.texts) == {(f"q{i}", f"a{i}") for i in range(12)}
    assert data.fingerprint != load(own(tmp_path, PAIRS), text_column="question").fingerprint


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        (PAIRS, "reply", r"no column 'reply'.*data\.pair_column"),
        (PAIRS.replace("a3", " "), "answer", r"row 4: the text is empty"),
    ],
)
def test_pairs_that_are_not_there(tmp_path, content, column, message):
    with pytest.raises(UserError, match=message):
        load(own(tmp_path, content), text_column="question", pair_column=column)


def test_a_tokenizer_gets_pairs(tmp_path):
    seen = []

    def tokenize(texts):
        seen.extend(texts)
        ones = torch.ones(len(texts), 2, dtype=torch.int64)
        return {"input_ids": ones, "attention_mask": ones}

    data = load(own(tmp_path, PAIRS), text_column="question", pair_column="answer")
    stream = make_stream(2, tasks=1)
    make_clients(data, stream, make_partition(data, stream, kind="iid", clients=2), TextInput(tokenize))
    assert tuple(seen) == data.train.texts + data.test.texts


@pytest.mark.parametrize("kind", ["iid", "dirichlet"])
def test_numbers_reach_the_batches_of_clients(tmp_path, kind):
    data = load(own(tmp_path, NUMBERS), scores=["pearson"])
    assert (data.class_names, len(data.train), len(data.test)) == (("value",), 10, 2)
    assert sorted(data.train.targets.tolist() + data.test.targets.tolist()) == [i / 4 for i in range(12)]
    ids = torch.arange(len(data.train) + len(data.test))

    def tokenize(texts):
        rows = torch.tensor([[int(text[1:])] for text in texts])
        return {"input_ids": rows, "attention_mask": torch.ones_like(rows)}

    stream = make_stream(1)
    partition = make_partition(data, stream, kind=kind, clients=2, min_samples=1)
    clients, evaluators = make_clients(data, stream, partition, TextInput(tokenize))
    (task,) = stream.tasks
    held = [client.train(task) for client in clients.values()] + [evaluators["test"].test(task)]
    assert sum(map(len, held)) == len(ids)
    for part in held:
        for batch in part.batches(3, device=torch.device("cpu"), shuffle=torch.Generator()):
            assert batch.targets.tolist() == (batch.inputs["input_ids"][:, 0] / 4).tolist()
            assert batch.labels.tolist() == [0] * len(batch.targets)
        assert part.recall(part.ids[:1], device=torch.device("cpu")).targets.shape == (1,)


def test_numbers_are_part_of_the_fingerprint(tmp_path):
    first, other = (load(own(tmp_path, text), scores=["pearson"]) for text in (NUMBERS, NUMBERS.replace("2.75", "2.5")))
    assert first.fingerprint != other.fingerprint


@pytest.mark.parametrize("kind", ["quantity"])
def test_a_partition_by_classes_has_none_to_draw(tmp_path, kind):
    data = load(own(tmp_path, NUMBERS), scores=["pearson"])
    with pytest.raises(UserError, match=r"partition\.alpha is 2; task 0 has 1 classes"):
        make_partition(data, make_stream(1), kind=kind, clients=2)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (["matthew"], r"no score 'matthew'; did you mean 'matthews'"),
        (["pearson", "accuracy"], "a data set has one of them"),
        (["accuracy", "accuracy"], "each once"),
        (["pearson"], r"own\.csv, row 1: 'no' is no number"),
        (["f1"], "there are 3; take macro_f1"),
    ],
)
def test_scores_that_do_not_fit(tmp_path, scores, message):
    rows = "text,label\n" + "".join(f"t{i},{('no', 'yes', 'maybe')[i % 3]}\n" for i in range(12))
    with pytest.raises(UserError, match=message):
        load(own(tmp_path, rows), scores=scores)


def test_every_task_of_glue_has_its_own_scores():
    assert {name: DATASETS[name].scores for name in ("sst2", "cola", "mrpc", "qqp", "stsb")} == {
        "sst2": ("accuracy",),
        "cola": ("matthews",),
        "mrpc": ("accuracy", "f1"),
        "qqp": ("accuracy", "f1"),
        "stsb": ("pearson", "spearman"),
    }


def test_the_authors_files_are_read_as_they_are(tmp_path):
    cola_public(tmp_path)
    data = load("cola", path=tmp_path)
    assert (data.train.texts, data.train.labels.tolist()) == (("She sang.", "Sang she sang."), [1, 0])
    assert (data.test.texts, data.test.labels.tolist()) == (("He slept.", 'Slept "he.'), [1, 0])
    mrpc(".txt", "msr_paraphrase_")(tmp_path / "mrpc")
    data = load("mrpc", path=tmp_path / "mrpc")
    assert data.train.texts == (('He said "yes.', "He agreed."), ("One.", "Two."))
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([1, 0], [1])


def test_torn_lines_are_counted_and_values_are_numbers(tmp_path):
    for layout in GLUE_LAYOUTS:
        if layout.name in ("qqp", "stsb"):
            layout.write(tmp_path)
    questions, likeness = load("qqp", path=tmp_path), load("stsb", path=tmp_path)
    assert (len(questions.train), questions.note) == (2, "1 lines without all fields left out")
    assert (likeness.train.targets.tolist(), likeness.test.targets.item()) == ([5.0, 0.25], pytest.approx(3.8))


@pytest.mark.parametrize(
    ("write", "name", "message"),
    [
        (glue("RTE", "a b", ("1 2",), ("1 2",)), "rte", r"names no columns 'sentence1' and 'label'; get it anew"),
        (
            glue("RTE", "sentence1 sentence2 label", ("a b maybe",), ("a b 1",)),
            "rte",
            r"line 2: the label 'maybe' is none",
        ),
        (glue("RTE", "sentence1 sentence2 label", ("a b",), ("a b 1",)), "rte", r"line 2 has 2 fields, not 3"),
        (glue("STS-B", "sentence1 sentence2 score", ("a b high",), ("a b 1",)), "stsb", r"line 2: 'high' is no number"),
    ],
)
def test_damaged_files_are_named(tmp_path, write, name, message):
    write(tmp_path)
    with pytest.raises(UserError, match=message):
        load(name, path=tmp_path)


def test_the_hubs_tables_are_told_from_the_authors(tmp_path):
    import datasets

    (tmp_path / "mrpc").mkdir()
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [1, 0]}
    label = datasets.ClassLabel(names=["not_equivalent", "equivalent"])
    text = datasets.Value("string")
    features = datasets.Features({"sentence1": text, "sentence2": text, "label": label})
    for split in ("train", "validation", "test"):
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(tmp_path / "mrpc" / f"{split}-00000-of-00001.parquet")
    data = load("mrpc", path=tmp_path)
    assert (data.train.texts, data.class_names) == ((("a", "c"), ("b", "d")), ("not_equivalent", "equivalent"))


def test_a_subset_keeps_the_classes_in_proportion(tmp_path):
    rows = "text,label\n" + "".join(f"t{i},{'a' if i < 90 else 'b'}\n" for i in range(120))
    options = {"train_samples": 32, "test_samples": 12, "seed": 4}
    data = load(own(tmp_path, rows), **options)
    assert (data.train.labels.bincount().tolist(), data.test.labels.bincount().tolist()) == ([24, 8], [9, 3])
    assert data.fingerprint == load(own(tmp_path, rows), **options).fingerprint
    assert len(load(own(tmp_path, rows), train_samples=1000).train) == 96
    assert load(own(tmp_path, rows), **options).held == 96, "there are as many, however few are taken"
