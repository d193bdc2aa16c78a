"""LoRM against its paper: dense formulas over pooled data, with inputs captured on plain dense weights."""

import copy
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from fedbraid.algebra import Statistic, Tensors, total
from fedbraid.core import Event, Round, State, Task
from fedbraid.linalg import from_triangle
from fedbraid.methods import lorm_memory as memory
from fedbraid.models import Adapter, load_backbone
from fedbraid.runtimes.codec import Codec

World = Any
Make = Callable[..., World]
RIDGE = 1e-6


def factors(shared: Tensors, layer: str, task: int | None = None) -> Tensor:
    """`B A` of the current task, or of a finished one, in fp64."""
    start = "" if task is None else f"task/{task}/"
    return shared[f"{start}lora_B/{layer}"].double() @ shared[f"{start}lora_A/{layer}"].double()


def dense_inputs(world: World, deltas: Mapping[str, Tensor], task: Task, client: str | None, layer: str) -> Tensor:
    """(tokens, d_in): what the layer reads on a plain backbone with `W0 + delta` as its weights."""
    backbone = load_backbone("tiny")
    for name, delta in deltas.items():
        weight = backbone.module.get_submodule(name).weight
        weight.data = (weight.double() + delta).float()
    seen: list[Tensor] = []
    module = backbone.module.get_submodule(layer) if layer != "features" else None
    if module is not None:
        module.register_forward_hook(lambda _m, args, _out: seen.append(args[0].flatten(0, -2).double()))
    with torch.no_grad():
        features = backbone.pool(backbone.module, {"pixel_values": world.pixels(task, client)})
    return torch.cat(seen) if module is not None else features.double()


def averaged(shared: Tensors, layers: list[str], done: int) -> dict[str, Tensor]:
    """The published model inside a task: the mean over the finished tasks and the current one."""
    return {
        layer: (sum(factors(shared, layer, t) for t in range(done)) + factors(shared, layer)) / (done + 1)
        for layer in layers
    }


def consolidated(world: World, state: State, layer: str, grams: list[Tensor]) -> Tensor:
    """`(sum dW_t G_t + lam dWbar) (sum G_t + lam I)^-1`, dense."""
    deltas = [factors(state.shared, layer, t) for t in range(len(grams))]
    summed = sum(grams)
    d = len(summed)
    lam = RIDGE * summed.trace() / d
    right = sum(w @ g for w, g in zip(deltas, grams, strict=True)) + lam * sum(deltas) / len(deltas)
    return right @ torch.linalg.inv(summed + lam * torch.eye(d, dtype=torch.float64))


def predicted(shared: Tensors, layer: str) -> Tensor:
    weights = memory.predicting(shared)
    return weights[f"delta_B/{layer}"].double() @ weights[f"delta_A/{layer}"].double()


def shrunk(x: Tensor, off_diagonal: float) -> Tensor:
    """The Gram of the rows of `x` with its off-diagonals scaled."""
    gram = x.T @ x
    return off_diagonal * gram + (1 - off_diagonal) * torch.diag(gram.diagonal())


def relative(a: Tensor, b: Tensor) -> float:
    return (torch.linalg.norm(a - b) / torch.linalg.norm(b)).item()


def stepwise(events: list[Event], phase: str) -> list[tuple[Event, Event]]:
    """(the event before, the event) of every round of the phase."""
    return [(a, b) for a, b in pairwise(events) if b.round.phase == phase]


# --- the end of a task --------------------------------------------------------------------------------------------


def test_diagonal_consolidation_is_the_dense_formula_of_the_state(world: Make) -> None:
    here = world()
    for event in here.run(here.method("lorm")):
        if event.round.phase != "consolidate":
            continue
        for layer in here.model.layers:
            grams = [torch.diag(event.state.server[f"gram/{t}/{layer}"]) for t in range(event.round.task.index + 1)]
            expected = consolidated(here, event.state, layer, grams)
            assert relative(predicted(event.state.shared, layer), expected) < 1e-6


def test_full_consolidation_is_the_dense_formula_of_the_state(world: Make) -> None:
    here = world()
    events = here.run(here.method("lorm", gram="full"))
    ends = [event for event in events if event.round.phase == "consolidate"]
    for layer in here.model.layers:
        sums = [from_triangle(event.state.server[f"gram/{layer}"]) for event in ends]
        grams = [after - before for before, after in zip([torch.zeros_like(sums[0]), *sums], sums, strict=False)]
        for t, gram in enumerate(grams):  # what is kept of a task is its A times its Gram
            product = ends[-1].state.server[f"product/{t}/{layer}"]
            a = ends[-1].state.shared[f"task/{t}/lora_A/{layer}"].double()
            assert relative(product, a @ gram) < 1e-9
        for done, event in enumerate(ends, start=1):
            expected = consolidated(here, event.state, layer, grams[:done])
            assert relative(predicted(event.state.shared, layer), expected) < 1e-4


@pytest.mark.parametrize("gram_model", ["averaged", "trained"])
@pytest.mark.parametrize(("gram", "off_diagonal"), [("diagonal", 1.0), ("full", 1.0), ("full", 0.8)])
def test_consolidation_uses_the_grams_of_the_pooled_data(
    gram: str, gram_model: str, off_diagonal: float, world: Make
) -> None:
    """The Grams that are summed over the clients are those of all data on the model that was asked for."""
    here = world(sizes=(4, 6))
    layers = list(here.model.layers)
    grams: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    method = here.method("lorm", gram=gram, gram_model=gram_model, gram_off_diagonal=off_diagonal)
    for before, event in stepwise(here.run(method), "consolidate"):
        task = event.round.task
        own = {layer: factors(before.state.shared, layer) for layer in layers}
        deltas = own if gram_model == "trained" else averaged(before.state.shared, layers, task.index)
        for layer in layers:
            x = dense_inputs(here, deltas, task, None, layer)
            whole = shrunk(x, off_diagonal) if gram == "full" else shrunk(x, 0.0)
            grams[layer].append(whole)
            if gram == "full":
                held = from_triangle(event.state.server[f"gram/{layer}"])
                assert relative(held, sum(grams[layer])) < 1e-5
            else:
                held = torch.diag(event.state.server[f"gram/{task.index}/{layer}"])
                assert relative(held, whole) < 1e-5
            expected = consolidated(here, event.state, layer, grams[layer])
            root = torch.linalg.cholesky(sum(grams[layer]) + 1e-9 * sum(grams[layer]).trace() * torch.eye(len(whole)))
            assert relative(predicted(event.state.shared, layer) @ root, expected @ root) < 1e-3


def test_inside_a_task_the_mean_over_tasks_predicts(world: Make) -> None:
    here = world()
    for before, event in stepwise(here.run(here.method("lorm")), "train"):
        assert before.round.task.index == event.round.task.index
        expected = averaged(event.state.shared, list(here.model.layers), event.round.task.index)
        for layer, delta in expected.items():
            assert relative(predicted(event.state.shared, layer), delta) < 1e-6


def test_after_the_first_task_the_closed_form_is_its_own_update(world: Make) -> None:
    here = world()
    for gram in ("diagonal", "full", "low_rank"):
        events = here.run(here.method("lorm", gram=gram))
        event = next(e for e in events if e.round.phase == "consolidate")
        for layer in here.model.layers:
            assert relative(predicted(event.state.shared, layer), factors(event.state.shared, layer, 0)) < 1e-4


# --- a round ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gram_model", ["averaged", "trained"])
@pytest.mark.parametrize("gram", ["diagonal", "full"])
def test_rounds_merge_by_the_grams_of_each_clients_own_data(gram: str, gram_model: str, world: Make) -> None:
    """B and A rounds of the first two tasks: trained values from the clients, everything else computed here."""
    here = world(sizes=(3, 2, 5))
    method = here.method("lorm", gram=gram, gram_model=gram_model, gram_off_diagonal=0.9, head_off_diagonal=0.3)
    phase, codec, layers = method.phases["train"], Codec(), list(here.model.layers)
    for before, event in stepwise(here.run(method), "train")[:4]:
        shared, task = before.state.shared, event.round.task
        kind = "lora_B" if event.round.index == 0 else "lora_A"
        right: dict[str, Tensor] = {}
        outer: dict[str, Tensor] = {}
        weighted: dict[str, Tensor] = {}
        count = 0
        for client, party in here.clients.items():
            data = party.train(task)
            update = codec.decode(codec.encode(phase.client_update(here.model, shared, data, event.round))).tensors
            mine = {
                **shared,
                **{key: update[key] for key in update if key.split("/")[0] in ("lora_A", "lora_B", "head")},
            }
            own = {layer: factors(mine, layer) for layer in layers}
            deltas = own if gram_model == "trained" else averaged(mine, layers, task.index)
            count += len(data)
            for layer in [*layers, "features"]:
                key = f"{kind}/{layer}" if layer != "features" else f"head/{task.index}"
                x = dense_inputs(here, deltas, task, client, layer)
                if layer == "features":
                    g = shrunk(torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1), 0.3)
                elif kind == "lora_B":
                    a = shared[f"lora_A/{layer}"].double()
                    g = a @ (x.T @ x) @ a.T
                else:
                    g = shrunk(x, 0.9 if gram == "full" else 0.0)
                right[key] = right.get(key, 0) + update[key].double() @ g
                outer[key] = outer.get(key, 0) + g
                weighted[key] = weighted.get(key, 0) + len(data) * update[key].double()
        for key, g in outer.items():
            lam = RIDGE * g.trace() / len(g)
            eye = torch.eye(len(g), dtype=torch.float64)
            expected = (right[key] + lam * weighted[key] / count) @ torch.linalg.inv(g + lam * eye)
            root = torch.linalg.cholesky(g + 1e-9 * g.trace() * eye)
            assert relative(event.state.shared[key].double() @ root, expected @ root) < 1e-3, (event.round, key)
        changed = {key for key in shared if not torch.equal(shared[key], event.state.shared[key])}
        assert changed == set(outer)


def test_a_task_starts_from_the_pretrained_weights_with_fresh_factors(world: Make) -> None:
    here = world()
    events = here.run(here.method("lorm"))
    starts = [e.state.shared for e in events if e.round.phase == "start"]
    drawn = []
    for shared in starts:
        for layer in here.model.layers:
            assert not shared[f"lora_B/{layer}"].any()
        drawn.append(shared[f"lora_A/{next(iter(here.model.layers))}"])
    assert not torch.equal(drawn[0], drawn[1])
    assert len(starts) == 3


def test_with_one_client_every_merge_is_that_clients_value(world: Make) -> None:
    here = world(clients=1)
    for gram in ("diagonal", "full", "low_rank"):
        method = here.method("lorm", gram=gram)
        for before, event in stepwise(here.run(method), "train"):
            data = here.clients["0"].train(event.round.task)
            update = method.phases["train"].client_update(here.model, before.state.shared, data, event.round)
            for key, value in update.items():
                if key.split("/")[0] in ("lora_A", "lora_B", "head"):
                    assert relative(event.state.shared[key], value) < 1e-4, key


def test_all_that_leaves_a_client_is_named(world: Make) -> None:
    here = world()
    method = here.method("lorm")
    events = here.run(method)
    kinds = {"train": [("lora_B", "triangle"), ("lora_A", "diagonal")]}
    for before, event in stepwise(events, "train"):
        data = here.clients["0"].train(event.round.task)
        update = method.phases["train"].client_update(here.model, before.state.shared, data, event.round)
        factor, form = kinds["train"][event.round.index]
        head = f"head/{event.round.task.index}"
        wanted = {"count", "metric/loss", "metric/samples", head, f"triangle/{head}"}
        wanted |= {f"{factor}/{layer}" for layer in here.model.layers}
        wanted |= {f"{form}/{factor}/{layer}" for layer in here.model.layers}
        assert set(update) == wanted
        assert update["count"].item() == len(data)
    before, event = stepwise(events, "consolidate")[0]
    data = here.clients["0"].train(event.round.task)
    update = method.phases["consolidate"].client_update(here.model, before.state.shared, data, event.round)
    assert set(update) == {f"diagonal/lora_A/{layer}" for layer in here.model.layers}


def test_splitting_a_client_leaves_the_consolidation_equal(world: Make) -> None:
    """Grams at the end of a task are sums over data, however it is shared out."""
    here = world()
    method = here.method("lorm", gram="full")
    events = here.run(method)
    before, _ = stepwise(events, "consolidate")[1]
    rnd = Round(before.round.task, "consolidate", 0, 0)
    phase = method.phases["consolidate"]
    data = here.clients["0"].train(rnd.task)
    cut = len(data) // 3
    parts = []
    for indices in (data.indices[:cut], data.indices[cut:]):
        half = copy.copy(data)
        object.__setattr__(half, "indices", indices)
        parts.append(phase.lift({}, phase.client_update(here.model, before.state.shared, half, rnd), rnd))
    whole: Statistic = phase.lift({}, phase.client_update(here.model, before.state.shared, data, rnd), rnd)
    split = total(parts)
    assert all(relative(split[key], whole[key]) < 1e-6 for key in whole)


# --- bytes --------------------------------------------------------------------------------------------------------

RANK, CLASSES = 16, 10
VIT = {
    f"blocks.{block}.{name}": shape
    for block in range(12)
    for name, shape in {
        "attn.qkv": (2304, 768),
        "attn.proj": (768, 768),
        "mlp.fc1": (3072, 768),
        "mlp.fc2": (768, 3072),
    }.items()
}
HEAD = {
    "count": torch.tensor(500.0, dtype=torch.float64),
    "metric/loss": torch.tensor(1.0, dtype=torch.float64),
    "metric/samples": torch.tensor(1.0, dtype=torch.float64),
    "head/3": torch.zeros(CLASSES, 769),
    "triangle/head/3": torch.zeros(769 * 770 // 2, dtype=torch.float64),
}


def test_a_b_round_of_a_vit_is_seven_megabytes() -> None:
    triangle = torch.zeros(RANK * (RANK + 1) // 2, dtype=torch.float64)
    update = dict(HEAD)
    for layer, (d_out, _) in VIT.items():
        update |= {f"lora_B/{layer}": torch.zeros(d_out, RANK), f"triangle/lora_B/{layer}": triangle.clone()}
    size = len(Codec().encode(update, {"client": "7"}))
    assert size <= 7e6
    numbers = sum(d_out * RANK + RANK * (RANK + 1) // 2 for d_out, _ in VIT.values())
    assert size >= 4 * (numbers + CLASSES * 769 + 769 * 770 // 2)


def test_an_a_round_of_a_vit_is_six_megabytes() -> None:
    update = dict(HEAD)
    for layer, (_, d_in) in VIT.items():
        update |= {
            f"lora_A/{layer}": torch.zeros(RANK, d_in),
            f"diagonal/lora_A/{layer}": torch.zeros(d_in, dtype=torch.float64),
        }
    assert len(Codec().encode(update, {"client": "7"})) <= 6e6


def test_what_a_task_leaves_behind_is_a_vector_a_layer(world: Make) -> None:
    """A download after a task with diagonal Grams holds no factor that the client has."""
    here = world(adapter=Adapter(rank=2))
    events = here.run(here.method("lorm"))
    ends = [e for e in events if e.round.phase == "start" and e.round.task.index > 0]
    assert ends
    for before, event in stepwise(events, "train"):
        if event.round.index or event.round.task.index == 0:
            continue
        fresh = sum(
            before.state.shared[key].numel() for key in before.state.shared if key.startswith(("lora_", "head/"))
        )
        scales = sum(before.state.shared[key].numel() for key in before.state.shared if key.startswith("solved/"))
        assert max(event.outcome.bytes_down.values()) <= 4 * (fresh + scales) + 20_000
