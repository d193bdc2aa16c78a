"""The laws of statistics: exact on integers held in fp64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedbraid.algebra import ZERO, Statistic, prefix, select, total, without
from fedbraid.errors import UserError

KEYS = ("count", "sum/head/0", "triangle/lora_A/x", "diagonal/lora_A/x")
SHAPES = dict(zip(KEYS, ((), (2, 3), (6,), (3,)), strict=True))


@st.composite
def statistics(draw: st.DrawFn) -> Statistic:
    tensors = {}
    for key in draw(st.sets(st.sampled_from(KEYS))):
        shape = SHAPES[key]
        size = torch.Size(shape).numel()
        values = draw(st.lists(st.integers(-(2**40), 2**40), min_size=size, max_size=size))
        tensors[key] = torch.tensor(values, dtype=torch.float64).reshape(shape)
    return Statistic(tensors)


def same(a: Statistic, b: Statistic) -> bool:
    return set(a) == set(b) and all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


@given(statistics(), statistics())
def test_addition_commutes(a: Statistic, b: Statistic) -> None:
    assert same(a + b, b + a)


@given(statistics(), statistics(), statistics())
def test_addition_is_associative(a: Statistic, b: Statistic, c: Statistic) -> None:
    assert same((a + b) + c, a + (b + c))


@given(statistics())
def test_zero_is_neutral(a: Statistic) -> None:
    assert same(a + ZERO, a)
    assert same(ZERO + a, a)
    assert len(ZERO) == 0


@given(st.lists(statistics(), max_size=5))
def test_total_is_the_key_wise_sum_and_leaves_its_parts(parts: list[Statistic]) -> None:
    before = [{key: t.clone() for key, t in part.items()} for part in parts]
    result = total(parts)
    for key in {key for part in parts for key in part}:
        expected = torch.zeros(SHAPES[key], dtype=torch.float64)
        for part in parts:
            expected = expected + part.get(key, torch.zeros(SHAPES[key], dtype=torch.float64))
        assert torch.equal(result[key], expected)
    for part, held in zip(parts, before, strict=True):
        assert same(part, Statistic(held))


def test_floating_point_is_summed_in_fp64() -> None:
    half = Statistic({"x": torch.full((3,), 60000.0, dtype=torch.float16)})
    assert (half + half)["x"].dtype == torch.float64
    assert (half + half)["x"].tolist() == [120000.0] * 3
    single = Statistic({"x": torch.tensor([2.0**24], dtype=torch.float32)})
    assert (single + Statistic({"x": torch.tensor([1.0])}))["x"].item() == 2**24 + 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64, torch.bool])
def test_integers_do_not_overflow(dtype: torch.dtype) -> None:
    one = torch.ones(2, dtype=dtype)
    result = total([Statistic({"n": one})] * 300)["n"]
    assert result.tolist() == [300, 300]
    assert result.dtype == torch.int64


def test_a_shape_that_does_not_fit_is_named() -> None:
    small, large = Statistic({"gram/x": torch.zeros(2, 2)}), Statistic({"gram/x": torch.zeros(3, 3)})
    with pytest.raises(UserError, match=r"cannot add 'gram/x'.*\(2, 2\).*\(3, 3\).*backbone, adapter and stream"):
        large + small


def test_shapes_that_would_broadcast_do_not_add() -> None:
    with pytest.raises(UserError, match="cannot add 'x'"):
        Statistic({"x": torch.zeros(2, 3)}) + Statistic({"x": torch.zeros(3)})
    with pytest.raises(UserError, match="cannot add 'x'"):
        Statistic({"x": torch.zeros(1)}) + Statistic({"x": torch.tensor(1.0)})


def test_select_prefix_and_without() -> None:
    tensors = {
        key: torch.tensor(float(i)) for i, key in enumerate(["head/0", "head/1", "header/0", "count", "a/head/0"])
    }
    assert sorted(select(tensors, "head")) == ["0", "1"]
    assert sorted(select(tensors, "a")) == ["head/0"]
    assert sorted(select(tensors, "a/head")) == ["0"]
    assert select(tensors, "nothing") == {}
    assert sorted(without(tensors, "head", "count")) == ["a/head/0", "header/0"]
    assert without(tensors) == tensors


@given(statistics(), st.sampled_from(["sum", "task/3", "x"]))
def test_select_inverts_prefix(a: Statistic, kind: str) -> None:
    assert same(Statistic(select(prefix(a, kind), kind)), a)
