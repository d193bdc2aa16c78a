"""The in-process runtime with phases of this test's own: sums, idle clients, bytes."""

from typing import Any, Literal

import pytest
import torch

from fedbraid.algebra import Statistic, Tensors
from fedbraid.core import EVALUATE, Round
from fedbraid.errors import UserError
from fedbraid.phases import nobody
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.inprocess import in_process
from fedbraid.runtimes.server import Server
from fedbraid.testing.numbers import ROUND, SHARED, Numbers, Squares, holders, squares


def runtime(
    values: dict[str, tuple[float, ...]],
    phase: Squares | None = None,
    tests: tuple[float, ...] = (1.0,),
    **options: Any,
) -> tuple[Server, Squares]:
    phase = phase or Squares()
    return in_process(squares(phase), MODEL, holders(values), holders({"test": tests}), **options), phase


MODEL: Any = None


@pytest.mark.parametrize("side", ["server", "client"])
def test_the_sum_over_clients(side: Literal["server", "client"]) -> None:
    here, _ = runtime({"b": (3.0,), "a": (1.0, 2.0), "c": ()}, lift_on=side)
    assert list(here.clients) == ["a", "b", "c"]
    assert list(here.evaluators) == ["test"]
    outcome = here.sum(SHARED, ROUND, ["c", "b", "a"])
    assert {key: tensor.item() for key, tensor in outcome.total.items()} == {"count": 3, "sum": 12.0, "squares": 56.0}
    assert outcome.reported == ("a", "b")
    assert outcome.idle == ("c",)
    assert set(outcome.bytes_up) == {"a", "b"}
    assert set(outcome.bytes_down) == {"a", "b", "c"}  # only a client knows that it has no samples
    noted, sent = ({"largest": 10.0}, {"a": 2, "b": 1}) if side == "server" else ({}, {"a": 3, "b": 3})
    assert {key: tensor.item() for key, tensor in outcome.watched.items()} == noted
    assert outcome.values_up == sent


def test_the_order_of_the_cohort_changes_no_bit() -> None:
    values = {str(c): tuple(torch.randn(5, generator=torch.Generator().manual_seed(c)).tolist()) for c in range(9)}
    totals = []
    for order in (sorted(values), sorted(values, reverse=True)):
        here, _ = runtime(values)
        totals.append(here.sum(SHARED, ROUND, order).total)
    assert all(torch.equal(totals[0][key], totals[1][key]) for key in totals[0])


def test_a_round_of_the_server_alone_sums_to_zero() -> None:
    here, phase = runtime({"a": (1.0,)})
    outcome = here.sum({}, ROUND, nobody(here.clients, ROUND))
    assert len(outcome.total) == 0
    assert not phase.seen
    assert here.memory() == runtime({"a": (1.0,)})[0].memory()


def test_clients_see_what_went_through_the_wire() -> None:
    here, phase = runtime({"a": (1.0,), "b": (1.0,)})
    here.sum({"scale": torch.tensor([1 / 3], dtype=torch.float64)}, ROUND, ["a", "b"])
    assert all(seen["scale"].dtype == torch.float32 for seen in phase.seen)
    assert all(seen["scale"].item() == torch.tensor(1 / 3).item() for seen in phase.seen)


def test_bytes_are_those_of_the_messages() -> None:
    here, _ = runtime({"a": (1.0, 2.0), "b": (3.0,)})
    large = SHARED | {"weight": torch.zeros(1000)}
    first = here.sum(large, ROUND, ["a"])
    again = here.sum(large, ROUND, ["a", "b"])
    assert first.bytes_down["a"] > 4000
    assert again.bytes_down["a"] < 300  # nothing is new
    assert again.bytes_down["b"] == first.bytes_down["a"]
    assert first.bytes_up["a"] == again.bytes_up["a"]
    changed = here.sum(large | {"scale": torch.tensor([5.0])}, ROUND, ["a", "b"])
    assert all(again.bytes_down["a"] < size < 400 for size in changed.bytes_down.values())


def test_a_resumed_runtime_sends_no_more() -> None:
    here, _ = runtime({"a": (1.0,)})
    here.sum(SHARED | {"weight": torch.zeros(1000)}, ROUND, ["a"])
    there, _ = runtime({"a": (1.0,)}, memory=here.memory())
    assert there.sum(SHARED | {"weight": torch.zeros(1000)}, ROUND, ["a"]).bytes_down["a"] < 300


def test_evaluation_asks_the_evaluators() -> None:
    here, _ = runtime({"a": (1.0,)})
    exam = Round(ROUND.task, EVALUATE, 0, 0)
    assert here.sum(SHARED, exam, here.evaluators).reported == ("test",)


def test_what_cannot_run() -> None:
    with pytest.raises(UserError, match="at least one client"):
        in_process(squares(), MODEL, {}, {})
    here, _ = runtime({"a": (1.0,)}, tests=())
    with pytest.raises(UserError, match="no test samples"):
        here.sum(SHARED, Round(ROUND.task, EVALUATE, 0, 0), here.evaluators)


def test_a_round_in_which_nobody_has_samples_is_empty() -> None:
    here, _ = runtime({"a": (), "b": ()})
    outcome = here.sum(SHARED, ROUND, ["a", "b"])
    assert (len(outcome.total), outcome.reported, outcome.idle) == (0, (), ("a", "b"))


def test_what_clients_keep_never_leaves_them() -> None:
    class Keeping(Squares):
        def client_update(self, model: Any, shared: Tensors, data: Numbers, round: Round) -> Tensors:
            seen = data.memory.get("seen", torch.tensor(0))
            return {**super().client_update(model, shared, data, round), "keep/seen": seen + len(data)}

        def lift(self, shared: Tensors, update: Tensors, round: Round) -> Statistic:
            assert set(update) == {"x"}
            return super().lift(shared, update, round)

    here, _ = runtime({"a": (1.0, 2.0), "a/b": (3.0,)}, Keeping())
    here.sum(SHARED, ROUND, ["a", "a/b"])
    here.sum(SHARED, ROUND, ["a"])
    assert {key: value.item() for key, value in here.kept().items()} == {"a/seen": 4, "a%2Fb/seen": 1}


def test_a_message_above_the_cap_ends_the_round() -> None:
    here, _ = runtime({"a": tuple(range(1000))}, codec=Codec(limit=2000))
    with pytest.raises(RuntimeError, match="above the cap of 2000"):
        here.sum(SHARED, ROUND, ["a"])


def test_statistics_of_other_shapes_are_named() -> None:
    class Ragged(Squares):
        def lift(self, _shared: Tensors, update: Tensors, _round: Round) -> Statistic:
            return Statistic({"gram/x": update["x"]})

    here, _ = runtime({"a": (1.0,), "b": (1.0, 2.0)}, Ragged())
    with pytest.raises(UserError, match="cannot add 'gram/x'"):
        here.sum(SHARED, ROUND, ["a", "b"])
