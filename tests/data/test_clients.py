from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toydata import toy_dataset

from fedbraid.core import ImageInput, TextInput
from fedbraid.data import Dataset, Table, make_clients, make_partition, make_stream
from fedbraid.errors import UserError
from fedbraid.testing.worlds import image_world

CPU = torch.device("cpu")
PLAIN = ImageInput(8, 1, (0.0,), (1 / 255,))
DATA = toy_dataset([0, 1, 2, 3] * 10, test=[0, 1, 2, 3] * 3)
STREAM = make_stream(4, tasks=2, order=[3, 1, 0, 2])


def parties(data=DATA, input=PLAIN, kind="iid", clients=3, augment="none"):
    partition = make_partition(data, STREAM, kind=kind, clients=clients)
    return make_clients(data, STREAM, partition, input, augment=augment)


def seen(batches):
    """The sample indices of the batches, which toy images carry as their grey value."""
    return [round(x.flatten()[0].item()) for batch in batches for x in batch.inputs["pixel_values"]]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 30), st.one_of(st.none(), st.integers(0, 99)))
def test_batches_cover_every_sample_once(size, seed):
    clients, _ = parties()
    held = []
    for client in clients.values():
        for task in STREAM.tasks:
            data = client.train(task)
            batches = list(data.batches(size, device=CPU, shuffle=None if seed is None else seeded(seed)))
            assert sum(len(batch.labels) for batch in batches) == len(data)
            assert all(len(batch.labels) == size for batch in batches[:-1])
            assert all(int(label) in task.classes for batch in batches for label in batch.labels)
            held += seen(batches)
    assert sorted(held) == list(range(40))


def test_labels_are_positions_in_the_stream():
    clients, _ = parties()
    data = clients["0"].train(STREAM.tasks[1])
    batch = next(data.batches(100, device=CPU))
    assert batch.labels.tolist() == [{3: 0, 1: 1, 0: 2, 2: 3}[i % 4] for i in seen([batch])]
    assert data.client == "0"
    assert sum(data.counts().values()) == len(data)
    assert set(data.counts()) <= set(STREAM.tasks[1].classes)


def test_shuffling_is_a_function_of_the_seed():
    data = parties()[0]["1"].train(STREAM.tasks[0])
    plain = seen(data.batches(2, device=CPU))
    first, again, other = (seen(data.batches(2, device=CPU, shuffle=seeded(s))) for s in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == sorted(other) == plain


def test_the_evaluator_sees_the_classes_so_far():
    clients, evaluators = parties()
    assert list(evaluators) == ["test"]
    tests = [evaluators["test"].test(task) for task in STREAM.tasks]
    assert [len(data) for data in tests] == [6, 12]
    assert tests[0].counts() == {0: 3, 1: 3}
    assert len(evaluators["test"].train(STREAM.tasks[0])) == 0
    assert len(clients["0"].test(STREAM.tasks[1])) == 0


def test_joint_training_sees_all_classes():
    clients, _ = parties()
    (task,) = STREAM.joined().tasks
    assert sum(len(client.train(task)) for client in clients.values()) == 40


def test_a_client_may_lack_a_task():
    data = toy_dataset([3, 1, 0, 2], clients=["a", "a", "b", "b"])
    clients, _ = parties(data, kind="natural")
    lacking = clients["a"].train(STREAM.tasks[1])
    assert len(lacking) == 0
    assert list(lacking.batches(4, device=CPU, shuffle=seeded(0), augment=True)) == []
    assert lacking.counts() == {}


def test_images_lie_in_memory_once():
    clients, _ = parties()
    pointers = {client.train(STREAM.tasks[0]).samples.pixels.data_ptr() for client in clients.values()}
    assert pointers == {DATA.train.images.data_ptr()}


def test_augmentation_is_drawn_from_the_shuffle():
    data = parties(augment="crop_flip")[0]["0"].train(STREAM.tasks[0])
    first, again, plain = (
        next(data.batches(9, device=CPU, shuffle=seeded(1), augment=augment)).inputs["pixel_values"]
        for augment in (True, True, False)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, plain)
    with pytest.raises(ValueError, match="generator"):
        next(data.batches(9, device=CPU, augment=True))


class Tokenizer:
    """One token a word, and a record of how often it was asked."""

    def __init__(self, side="right"):
        self.calls, self.side = 0, side

    def __call__(self, texts):
        self.calls += 1
        rows = [[len(word) for word in text.split()] for text in texts]
        longest = max(map(len, rows)) + 3
        padded = [row + [0] * (longest - len(row)) for row in rows]
        ids = torch.tensor(padded if self.side == "right" else [row[::-1] for row in padded])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def text_data(texts):
    table = Table(torch.arange(len(texts)) % 4, texts=tuple(texts))
    return Dataset("words", "text", ("a", "b", "c", "d"), table, table, "0" * 64, len(table))


def test_texts_are_tokenized_once_and_trimmed_to_the_longest_of_a_batch():
    tokenizer = Tokenizer()
    _, evaluators = parties(text_data(["w" * (i + 1) + " x" * i for i in range(12)]), TextInput(tokenizer))
    assert tokenizer.calls == 2
    batches = list(evaluators["test"].test(STREAM.tasks[1]).batches(4, device=CPU))
    assert [batch.inputs["input_ids"].shape for batch in batches] == [(4, 4), (4, 8), (4, 12)]
    assert [batch.inputs["attention_mask"].shape for batch in batches] == [(4, 4), (4, 8), (4, 12)]
    firsts = [int(row[0]) for batch in batches for row in batch.inputs["input_ids"]]
    assert firsts == list(range(1, 13))


@pytest.mark.parametrize(
    ("input", "message"),
    [
        (TextInput(Tokenizer("left")), "pads on the left"),
        (TextInput(Tokenizer(), mask="mask"), "no 'mask'"),
        (PLAIN, "words is text data, but the backbone reads images"),
    ],
)
def test_inputs_that_do_not_fit(input, message):
    with pytest.raises(UserError, match=message):
        parties(text_data(["one", "two words", "three", "four"] * 3), input)


def test_a_partition_of_other_data():
    partition = make_partition(DATA, STREAM, kind="iid", clients=3)
    with pytest.raises(UserError, match="another data set"):
        make_clients(replace(DATA, fingerprint="0" * 64), STREAM, partition, PLAIN)
    with pytest.raises(UserError, match="does not have"):
        make_clients(DATA, STREAM, replace(partition, clients={"0": (40,)}), PLAIN)
    with pytest.raises(UserError, match="no augmentation"):
        make_clients(DATA, STREAM, partition, PLAIN, augment="blur")


def test_a_batch_has_a_size():
    with pytest.raises(UserError, match="batch size is 0"):
        next(parties()[0]["0"].train(STREAM.tasks[0]).batches(0, device=CPU))


def test_a_client_without_any_sample_sits_out() -> None:
    world = image_world(without_task=0)
    assert [len(world.clients["b"].train(task)) for task in world.tasks] == [0, 0, 0]
