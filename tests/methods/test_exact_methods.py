"""The exact aggregation family as runs: what is the same as what, what restarts, clients of unequal ranks."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from fedbraid.algebra import Tensors, select
from fedbraid.core import Event, Task
from fedbraid.errors import RunError, UserError
from fedbraid.local.training import Training
from fedbraid.masking import owned
from fedbraid.methods import METHODS, Setting, make
from fedbraid.models import Adapter

World = Any
Make = Callable[..., World]
LORA = Adapter(rank=3, blocks="0-1", layers=("q_proj", "fc1"))


def final(events: list[Event]) -> Tensors:
    return events[-1].state.shared


def same(one: Tensors, other: Tensors, tolerance: float = 0.0) -> bool:
    return one.keys() == other.keys() and all((one[k] - other[k]).abs().max() <= tolerance for k in one)


def test_fed_talora_is_fedex_over_a_stream_and_fedit_without_its_residual(world: Make) -> None:
    here = world(adapter=LORA)
    talora, fedex = here.run(here.method("fed_talora")), here.run(here.method("fedex_lora"))
    assert same(final(talora), final(fedex))
    off, fedit = here.run(here.method("fed_talora", residual=False)), here.run(here.method("fedit"))
    assert same(final(off), final(fedit))
    assert any(key.startswith(("merged/", "dense/")) for key in final(talora))


def test_fed_talora_takes_the_first_blocks_where_none_are_named() -> None:
    options = METHODS["fed_talora"]()
    assert options.adapter(Adapter()).blocks == "0-3"
    assert options.adapter(Adapter(blocks="8-11")).blocks == "8-11"


@pytest.mark.parametrize("encoding", [{"encoding": "dense"}, {"encoding": "sketch", "sketch_width": 7}])
def test_all_encodings_give_the_same_run(world: Make, encoding: dict[str, Any]) -> None:
    """Two rounds of one task, lifted on either side; the wire rounds sums to fp32."""
    here = world(adapter=LORA, joined=True)
    expected = here.run(here.method("fedex_lora"))
    weights = here.method("fedex_lora").predicting(final(expected))
    for side in ("server", "client"):
        method = here.method("fedex_lora", **encoding)
        got = method.predicting(final(here.run(method, lift_on=side)))
        for layer in here.model.layers:
            assert (whole(got, layer) - whole(weights, layer)).abs().max() < 1e-5


def whole(weights: Tensors, layer: str) -> Tensor:
    update = weights[f"lora_B/{layer}"] @ weights[f"lora_A/{layer}"]
    if f"delta_B/{layer}" in weights:
        update = update + weights[f"delta_B/{layer}"] @ weights[f"delta_A/{layer}"]
    return update + weights.get(f"dense/{layer}", 0)


def test_a_sketch_that_is_too_narrow_is_refused_with_the_width_to_set(world: Make) -> None:
    here = world(adapter=LORA)
    with pytest.raises(RunError, match=r"rank may be 6; set method.sketch_width"):
        here.run(here.method("fedex_lora", encoding="sketch", sketch_width=4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "sketch"}, "a sketch needs a width"),
        ({"residual_rank": -1}, "must not be negative"),
        ({"residual_rank": 2, "encoding": "dense"}, "needs factors or sketch"),
    ],
)
def test_options_that_do_not_go_together(world: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        world(adapter=LORA).method("fedex_lora", **options)


def test_a_bound_on_the_residual_is_a_bound_on_what_is_sent(world: Make) -> None:
    here = world(adapter=LORA)
    found = here.run(here.method("fedex_lora", residual_rank=1))
    last = found[-1].round
    lefts = select(final(found), f"merged/{last.task.index}.{last.index}/B")
    assert lefts
    assert {left.shape[1] for left in lefts.values()} == {1}
    assert any(key.startswith("cut_B/") for key in found[-1].state.server)


def test_flora_begins_every_round_anew(world: Make) -> None:
    here = world(adapter=LORA)
    rounds = [event for event in here.run(here.method("flora")) if event.round.phase == "train"]
    firsts = [event.state.shared["lora_A/layers.0.attention.q_proj"] for event in rounds]
    assert all(not b.any() for event in rounds for b in select(event.state.shared, "lora_B").values())
    assert all(not torch.equal(one, other) for one, other in pairwise(firsts))


def test_flexlora_keeps_the_best_of_its_rank(world: Make) -> None:
    here = world(adapter=LORA, joined=True)
    (event,) = [e for e in here.run(here.method("flexlora", rounds=1)) if e.round.phase == "train"]
    stack = next(e for e in here.run(here.method("flora", rounds=1)) if e.round.phase == "train")
    for layer in here.model.layers:
        flora = make(METHODS["flora"](), Setting(LORA, here.plan, 1)).predicting(stack.state.shared)
        exact = (whole(flora, layer)).double()
        got = whole(event.state.shared, layer).double()
        best = torch.linalg.svdvals(exact)[3:].norm()
        assert (got - exact).norm() == pytest.approx(best.item(), rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("name", ["fedit", "ffa_lora", "rolora", "flora", "flexlora", "fedex_lora", "fed_talora"])
def test_clients_of_unequal_ranks_and_scales_run_together(world: Make, name: str) -> None:
    here = world(adapter=replace(LORA, alpha=6.0), joined=False)
    ids = sorted(here.clients)
    setting = Setting(here.adapter, here.plan, 2, ranks={ids[0]: 1, ids[1]: 2}, alphas={ids[0]: 1.0})
    events = here.run(make(METHODS[name](), setting))
    sent = next(event.outcome.values_up for event in events if event.round.phase == "train")
    assert sent[ids[0]] < sent[ids[1]] < sent[ids[2]]
    assert all(torch.isfinite(value).all() for value in final(events).values())


def test_the_deviation_is_told_of_rounds_that_train_both_factors(world: Make) -> None:
    here = world(adapter=LORA)
    for name, told in (("fedit", True), ("fedex_lora", True), ("ffa_lora", False), ("rolora", False)):
        rounds = [e.figures["deviation"] for e in here.run(here.method(name)) if e.round.phase == "train"]
        assert all((set(found) == set(here.model.layers)) == told for found in rounds), name
        assert all(relative > 0 for found in rounds for _, relative in found.values())


def test_options_say_whether_all_that_is_sent_adds_up() -> None:
    def adds_up(name: str, **options: Any) -> bool:
        method = make(METHODS[name](**options), Setting(LORA, Training(), 2))
        return not owned(method, [Task(0, (0, 2))])

    assert not adds_up("fedex_lora")
    assert adds_up("fedex_lora", encoding="dense")
    assert adds_up("fed_talora", encoding="sketch", sketch_width=8)
    assert adds_up("fed_talora", residual=False)
    assert not adds_up("flora")
    assert adds_up("lorm")
