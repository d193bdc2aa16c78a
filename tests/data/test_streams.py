import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedbraid.data import Stream, make_stream
from fedbraid.errors import UserError


def sizes(stream: Stream) -> list[int]:
    return [len(task.classes) for task in stream.tasks]


@given(st.integers(1, 300), st.integers(1, 40), st.sampled_from(["natural", "random"]), st.integers(0, 5))
def test_every_class_comes_once(count, tasks, order, seed):
    tasks = min(tasks, count)
    stream = make_stream(count, tasks=tasks, order=order, seed=seed)
    assert sorted(stream.order) == list(range(count))
    assert len(stream.tasks) == tasks
    assert sum(sizes(stream)) == count
    assert min(sizes(stream)) >= min(2, count // tasks)
    assert sizes(stream) == sorted(sizes(stream), reverse=True)


def test_the_last_task_is_the_shorter_one():
    assert sizes(make_stream(196, tasks=10)) == [20] * 9 + [16]
    assert sizes(make_stream(10, tasks=4)) == [3, 3, 2, 2]
    assert sizes(make_stream(9, tasks=4)) == [3, 2, 2, 2]


@pytest.mark.parametrize(("count", "tasks"), [(1, 1), (3, 1), (4, 2), (7, 3), (10, 5), (100, 5)])
def test_the_default_leaves_two_classes_to_a_task(count, tasks):
    assert len(make_stream(count).tasks) == tasks


def test_a_task_knows_nothing_of_those_to_come():
    tasks = make_stream(6, sizes=[1, 3, 2]).tasks
    assert [task.offsets for task in tasks] == [(0, 1), (0, 1, 4), (0, 1, 4, 6)]
    assert [list(task.classes) for task in tasks] == [[0], [1, 2, 3], [4, 5]]
    assert all(task.last for task in tasks)


def test_labels_are_placed_by_position():
    stream = make_stream(4, tasks=2, order=["d", "b", 0, "c"], class_names=["a", "b", "c", "d"])
    assert stream.order == (3, 1, 0, 2)
    assert stream.place(torch.tensor([3, 1, 0, 2, 3])).tolist() == [0, 1, 2, 3, 0]
    assert stream.names(["a", "b", "c", "d"]) == (("d", "b"), ("a", "c"))


def test_joined_keeps_the_positions():
    stream = make_stream(6, tasks=3, order="random", seed=4)
    assert stream.joined().order == stream.order
    assert stream.joined().offsets == (0, 6)


def test_random_order_is_a_function_of_the_seed():
    orders = [make_stream(50, order="random", seed=seed).order for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("label", [-1, 4, 99])
def test_a_label_outside_the_stream_is_named(label):
    with pytest.raises(UserError, match=f"class {label} is not in the stream"):
        make_stream(4).place(torch.tensor([0, label, 1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": 5}, "stream.tasks is 5; 4 classes"),
        ({"tasks": 0}, "stream.tasks is 0"),
        ({"sizes": [2, 3]}, "sum to 5"),
        ({"sizes": [4, 0]}, "positive"),
        ({"sizes": []}, "sum to 0"),
        ({"sizes": [2, 2], "tasks": 2}, "both set"),
        ({"order": "reverse"}, "'reverse'"),
        ({"order": [0, 1, 2, 2]}, "names 2 twice"),
        ({"order": [0, 1, 2]}, "leaves out 1 of 4"),
        ({"order": [0, 1, 2, "cat"], "class_names": ["dog", "cats", "cow", "hen"]}, "did you mean 'cats'"),
        ({"order": [0, 1, 2, 7]}, "no class 7"),
        ({"order": ["9" * 5000, 1, 2, 3]}, "there is no class"),
        ({"order": [0] * 10**6}, "names 0 twice"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(UserError, match=message):
        make_stream(4, **options)
