"""Fed-SB: what it begins with, recomputed by autograd on a plain backbone; and that its aggregation is exact."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fedbraid.algebra import total
from fedbraid.core import Event, Task
from fedbraid.errors import UserError
from fedbraid.merges import Mean
from fedbraid.models import Adapter, load_backbone

World = Any
Make = Callable[..., World]
XS = Adapter(kind="lora_xs", rank=3, alpha=6.0, blocks="0-1", layers=("q_proj", "fc1"))
ALL = 10_000


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), counts=st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_the_mean_of_cores_is_the_mean_of_weights(seed: int, counts: list[int]) -> None:
    g = torch.Generator().manual_seed(seed)
    b, a, w0 = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((6, 3), (3, 5), (6, 5)))
    cores = [torch.randn(3, 3, generator=g, dtype=torch.float64) for _ in counts]
    found = [{"count": torch.tensor(n), "core_R/x": core} for n, core in zip(counts, cores, strict=True)]
    merged = Mean().solve(total(map(Mean().lift, found)))["core_R/x"]
    weights = [n * (w0 + 2.0 * b @ core @ a) for n, core in zip(counts, cores, strict=True)]
    assert torch.allclose(w0 + 2.0 * b @ merged @ a, sum(weights) / sum(counts), rtol=0, atol=1e-12)


def events_of(here: World, **options: Any) -> dict[str, list[tuple[Event, Event]]]:
    """(the event before, the event) by phase."""
    found: dict[str, list[tuple[Event, Event]]] = {}
    for before, event in pairwise(here.run(here.method("fed_sb", **options))):
        found.setdefault(event.round.phase, []).append((before, event))
    return found


def update(shared: Any, layer: str) -> Tensor:
    core = [shared[f"core_{part}/{layer}"].double() for part in "BRA"]
    return XS.scale * core[0] @ core[1] @ core[2]


def gradients(here: World, task: Task, head: Tensor, client: str | None = None) -> dict[str, Tensor]:
    """The summed gradient of the loss by every layer's weight on plain weights."""
    backbone = load_backbone("tiny")
    layers = {layer: backbone.module.get_submodule(layer).weight.requires_grad_(True) for layer in here.model.layers}
    parties = [here.clients[client]] if client else list(here.clients.values())
    labels = torch.cat([party.train(task).labels[party.train(task).indices] for party in parties]) - task.classes.start
    features = backbone.pool(backbone.module, {"pixel_values": here.pixels(task, client)})
    F.cross_entropy(features @ head[:, :-1].T + head[:, -1], labels, reduction="sum").backward()
    return {layer: weight.grad.double() for layer, weight in layers.items()}


def best(matrix: Tensor, rank: int) -> Tensor:
    svd = torch.linalg.svd(matrix, full_matrices=False)
    return svd.U[:, :rank] * svd.S[:rank] @ svd.Vh[:rank]


def test_it_begins_with_the_best_of_adamws_first_step(world: Make) -> None:
    here = world(sizes=(4, 6), adapter=XS)
    (before, event), *more = events_of(here, init_samples=ALL, init_lr=0.01)["gradients"]
    assert not more
    assert not [key for key in before.state.shared if key.startswith("core_")]
    found = gradients(here, event.round.task, before.state.shared["head/0"])
    for layer, gradient in found.items():
        step = -0.01 * gradient.sign()
        own = update(event.state.shared, layer)
        left = event.state.shared[f"core_B/{layer}"]
        assert torch.allclose(left.T @ left, torch.eye(3), atol=1e-5)
        assert (own - best(step, 3)).norm() < 0.02 * own.norm()  # an entry near zero may change its sign


@pytest.mark.parametrize("width", [100, 400])
def test_of_sgds_first_step_a_sketch_is_enough(width: int, world: Make) -> None:
    here = world(sizes=(4, 6), adapter=XS)
    found = events_of(here, init_samples=ALL, init_lr=0.5, first_step="sgd", sketch_width=width)
    before, event = found["gradients"][0]
    samples = sum(len(party.train(event.round.task)) for party in here.clients.values())
    for layer, gradient in gradients(here, event.round.task, before.state.shared["head/0"]).items():
        expected = best(-0.5 * gradient / samples, 3)
        assert (update(event.state.shared, layer) - expected).norm() < 1e-3 * expected.norm()


def test_a_narrow_sketch_is_small_and_near(world: Make) -> None:
    here = world(sizes=(4, 6), adapter=XS)
    wide, narrow = (
        events_of(here, init_samples=ALL, init_lr=0.5, first_step="sgd", sketch_width=w)["gradients"][0][1]
        for w in (100, 0)
    )
    dense = events_of(here, init_samples=ALL)["gradients"][0][1]
    for layer in here.model.layers:
        a, b = update(wide.state.shared, layer), update(narrow.state.shared, layer)
        assert (a - b).norm() < 0.4 * a.norm()  # the gradient's rank is far above 20
    numbers = sum((o + 1.5 * i) * 20 for o, i in here.model.layers.values())
    assert max(narrow.outcome.bytes_up.values()) < 4 * numbers + 5_000
    assert max(dense.outcome.bytes_up.values()) > 4 * sum(o * i for o, i in here.model.layers.values())


def test_a_client_counts_by_its_size_whatever_it_measures_on(world: Make) -> None:
    here = world(sizes=(4, 6), adapter=XS, plan=replace(world().plan, batch_size=4))
    method = here.method("fed_sb", init_samples=8)
    start = here.run(method)[0]
    phase = method.phases["gradients"]
    task = start.round.task
    rnd = replace(start.round, phase="gradients")
    for client, party in here.clients.items():
        data = party.train(task)
        sent = phase.client_update(here.model, start.state.shared, data, rnd)
        whole = gradients(here, task, start.state.shared["head/0"], client)
        assert sent["count"].item() == len(data)
        for layer, gradient in whole.items():
            ratio = (sent[f"gradient/{layer}"] * gradient).sum() / gradient.square().sum()
            assert 0.3 < ratio < 3  # an estimate of the sum over all samples
            if len(data) <= 8:
                assert torch.allclose(sent[f"gradient/{layer}"], gradient, atol=1e-4)
        again = phase.client_update(here.model, start.state.shared, data, rnd)
        assert all(torch.equal(again[key], sent[key]) for key in sent)
    assert not [p for p in here.model.backbone.module.parameters() if p.requires_grad]


@pytest.mark.parametrize("options", [{"init_lr": 1e-3}, {"init": "weight"}], ids=["gradient", "weight"])
def test_every_round_is_the_weighted_mean_of_the_clients_weights(options: dict[str, Any], world: Make) -> None:
    here = world(sizes=(4, 6), adapter=XS)
    method = here.method("fed_sb", **options)
    for before, event in events_of(here, **options)["train"]:
        shared = before.state.shared
        parties = [here.clients[client].train(event.round.task) for client in sorted(here.clients)]
        found = [method.phases["train"].client_update(here.model, shared, data, event.round) for data in parties]
        counts = [len(data) for data in parties]
        for layer in here.model.layers:
            weights = [n * update({**shared, **own}, layer) for n, own in zip(counts, found, strict=True)]
            expected = sum(weights) / sum(counts)
            merged = update(event.state.shared, layer)
            assert (merged - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max())
            assert not torch.equal(event.state.shared[f"core_R/{layer}"], shared[f"core_R/{layer}"])
        sent = {key.split("/")[0] for own in found for key in own}
        assert sent == {"count", "metric", "core_R", "head"}
        fixed = [key for key in shared if key.startswith(("core_A/", "core_B/"))]
        assert all(torch.equal(event.state.shared[key], shared[key]) for key in fixed)


def test_the_fixed_matrices_are_sent_once(world: Make) -> None:
    here = world(sizes=(4, 6), adapter=XS)
    down = [max(event.outcome.bytes_down.values()) for _, event in events_of(here)["train"]]
    frame = 4 * sum((o + i) * 3 for o, i in here.model.layers.values())
    assert down[0] > frame
    assert max(down[1:]) < frame


def test_from_the_weights_it_begins_as_lora_xs(world: Make) -> None:
    here = world(adapter=XS)
    method = here.method("fed_sb", init="weight")
    assert list(method.phases) == ["start", "train"]
    shared = here.run(method)[0].state.shared
    for layer in here.model.layers:
        weight = load_backbone("tiny").module.get_submodule(layer).weight.detach()
        assert torch.allclose(shared[f"core_B/{layer}"] @ shared[f"core_A/{layer}"], best(weight, 3), atol=1e-4)


def test_options_out_of_range(world: Make) -> None:
    here = world(adapter=XS)
    for options, message in [
        ({"init_samples": 0}, "init_samples = 0"),
        ({"init_lr": 0.0}, "init_lr = 0"),
        ({"first_step": "sgd", "sketch_width": 2}, "at least the rank, 3"),
    ]:
        with pytest.raises(UserError, match=message):
            here.method("fed_sb", **options)
    with pytest.raises(UserError, match="takes lora_xs"):
        world().method("fed_sb")
