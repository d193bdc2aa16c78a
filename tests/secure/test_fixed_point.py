"""Words add exactly, a decoded sum keeps the error bound, and what could overflow is refused by name."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedbraid.errors import RunError, UserError
from fedbraid.secure.fixed_point import Entry, Layout, decode, encode

HALF_STEP = Fraction(1, 2**25)
COLUMNS = st.integers(1, 12).flatmap(
    lambda n: st.lists(st.lists(st.floats(-(2.0**25), 2.0**25), min_size=n, max_size=n), min_size=1, max_size=6)
)


def summed(layout: Layout, updates: list) -> dict[str, torch.Tensor]:
    words = np.zeros(layout.size, np.uint64)
    for update in updates:
        words += encode(layout, update, clients=len(updates))
    return decode(layout, words)


@given(COLUMNS)
def test_a_sum_of_n_clients_errs_by_n_half_steps_at_most(columns: list[list[float]]) -> None:
    clients = len(columns[0])
    updates = [{"x": torch.tensor([column[i] for column in columns], dtype=torch.float64)} for i in range(clients)]
    found = summed(Layout.of(updates[0]), updates)["x"].tolist()
    for column, value in zip(columns, found, strict=True):
        assert abs(Fraction(value) - sum(map(Fraction, column))) <= clients * HALF_STEP


@pytest.mark.parametrize("clients", [1, 3, 12])
def test_the_bound_is_reached(clients: int) -> None:
    updates = [{"x": torch.tensor([2.0**-25, 3 * 2.0**-25], dtype=torch.float64)}] * clients
    exact = torch.tensor([1.0, 3.0], dtype=torch.float64) * clients * 2.0**-25
    assert (summed(Layout.of(updates[0]), updates)["x"] - exact).abs().tolist() == [clients * 2.0**-25] * 2


@given(st.lists(st.integers(-(2**50), 2**50), min_size=1, max_size=8))
def test_multiples_of_the_step_and_integers_come_back_exactly(numbers: list[int]) -> None:
    update = {"x": torch.tensor(numbers, dtype=torch.float64) / 2**24, "n": torch.tensor(numbers)}
    found = decode(Layout.of(update), encode(Layout.of(update), update, clients=3))
    assert torch.equal(found["x"], update["x"])
    assert torch.equal(found["n"], update["n"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_every_floating_point_dtype_is_summed_in_fp64(dtype: torch.dtype) -> None:
    update = {"x": torch.tensor([[1.5, -0.25], [0.0, 2.0]]).to(dtype)}
    found = summed(Layout.of(update), [update] * 3)["x"]
    assert found.dtype == torch.float64
    assert found.tolist() == [[4.5, -0.75], [0.0, 6.0]]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool])
def test_every_integer_dtype_is_summed_in_int64(dtype: torch.dtype) -> None:
    update = {"n": torch.tensor([1, 0, 1]).to(dtype), "one": torch.tensor(1).to(dtype)}
    found = summed(Layout.of(update), [update] * 7)
    assert found["n"].dtype == torch.int64
    assert (found["n"].tolist(), found["one"].item()) == ([7, 0, 7], 7)


@pytest.mark.parametrize("clients", [1, 2, 3, 7, 100, 1000])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_integers_fit_and_one_more_is_refused(clients: int, sign: int) -> None:
    largest = sign * ((2**63 - 1) // clients)
    update = {"n": torch.tensor([0, largest])}
    assert summed(Layout.of(update), [update] * clients)["n"].tolist() == [0, clients * largest]
    if (clients, sign) == (1, 1):
        return  # the next one is no int64
    with pytest.raises(RunError, match=r"'n'\[1\] is -?\d+, which does not fit"):
        encode(Layout.of(update), {"n": torch.tensor([0, largest + sign])}, clients=clients)


@pytest.mark.parametrize("clients", [1, 2, 3, 7, 100, 1000])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_floats_fit_and_the_limit_is_refused(clients: int, sign: float) -> None:
    limit = torch.tensor([sign * 2.0**39 / clients], dtype=torch.float64)  # n |x| 2^24 = 2^63
    below = limit * (1 - 2.0**-52)
    layout = Layout.of({"x": limit})
    found = summed(layout, [{"x": below}] * clients)["x"]
    assert torch.allclose(found, clients * below, rtol=2**-51, atol=0)  # it has not wrapped
    with pytest.raises(RunError, match=f"of {clients} clients"):
        encode(layout, {"x": limit * (1 + 2.0**-52)}, clients=clients)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30, -1e308])
def test_what_does_not_fit_is_refused_by_name_place_and_value(value: float) -> None:
    layout = Layout((Entry("gram/0", (2, 2), "float64"),))
    tensor = torch.tensor([[0.0, 1.0], [value, 2.0]], dtype=torch.float64)
    with pytest.raises(RunError, match=r"'gram/0'\[1, 0\] is .*at most 1.83\d*e\+11"):
        encode(layout, {"gram/0": tensor}, clients=3)


def test_the_least_integer_is_refused_although_it_has_no_magnitude() -> None:
    update = {"n": torch.tensor(-(2**63))}
    with pytest.raises(RunError, match="'n' is -9223372036854775808"):
        encode(Layout.of(update), update, clients=3)


def test_other_tensors_than_those_of_the_layout_are_refused() -> None:
    layout = Layout.of({"x": torch.zeros(2), "n": torch.tensor(1)})
    good = {"x": torch.zeros(2), "n": torch.tensor(1)}
    for bad, named in (
        ({"x": torch.zeros(2)}, "n"),
        ({**good, "y": torch.zeros(1)}, "y"),
        ({**good, "x": torch.zeros(3)}, "x"),
        ({**good, "x": torch.zeros(2, dtype=torch.int64)}, "x"),
        ({**good, "n": torch.tensor(1.0)}, "n"),
        ({**good, "n": torch.tensor([1])}, "n"),
        ({**good, "x": torch.zeros(2, dtype=torch.complex64)}, "x"),
    ):
        with pytest.raises(UserError, match=f"'{named}'"):
            encode(layout, bad, clients=3)
    with pytest.raises(UserError, match="4 words for a layout of 3"):
        decode(layout, np.zeros(4, np.uint64))


def test_the_digest_is_that_of_names_shapes_and_kinds() -> None:
    base = {"x": torch.zeros(2, 3), "y": torch.zeros(1)}
    others = (
        {"x": torch.zeros(3, 2), "y": torch.zeros(1)},
        {"x": torch.zeros(2, 3), "z": torch.zeros(1)},
        {"x": torch.zeros(2, 3), "y": torch.zeros(())},
        {"x": torch.zeros(2, 3), "y": torch.zeros(1, dtype=torch.int64)},
        {"x": torch.zeros(2, 3)},
        {},
    )
    digests = [Layout.of(update).digest for update in (base, *others)]
    assert len({*digests}) == len(digests)
    assert Layout.of(dict(reversed(base.items()))).digest == digests[0]
    assert Layout.of({"x": torch.ones(2, 3).half(), "y": torch.zeros(1).double()}).digest == digests[0]


def test_a_layout_is_sorted_and_may_be_empty() -> None:
    with pytest.raises(UserError, match="sorted"):
        Layout((Entry("b", (), "int64"), Entry("a", (), "int64")))
    with pytest.raises(UserError, match="once"):
        Layout((Entry("a", (), "int64"), Entry("a", (), "int64")))
    with pytest.raises(UserError, match="float64 or int64, not that of 'a'"):
        Layout((Entry("a", (), "float32"),))
    nothing, hollow = Layout(()), {"x": torch.zeros(0, 3), "n": torch.zeros(0, dtype=torch.int64)}
    assert decode(nothing, encode(nothing, {}, clients=3)) == {}
    assert decode(Layout.of(hollow), encode(Layout.of(hollow), hollow, clients=3))["x"].shape == (0, 3)
