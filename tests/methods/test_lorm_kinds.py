"""LoRM over VeRA, LoRA-XS and (IA)^3 against dense formulas, with inputs captured on plain dense weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from fedbraid.algebra import Tensors, select
from fedbraid.core import Event, Task
from fedbraid.local.training import Training
from fedbraid.methods import lorm_memory as memory
from fedbraid.methods.lorm_kinds import kind_of
from fedbraid.models import Adapter, load_backbone
from fedbraid.models.tuning.vera import left_matrix, right_matrix

World = Any
Make = Callable[..., World]
RIDGE = 1e-6
TWO = {"rank": 2, "blocks": "0", "layers": ("q_proj", "fc2", "fc1")}
PLAIN = load_backbone("tiny").module
SHRUNK = 0.9
FAST = Training(epochs=2, batch_size=16, lr=0.05, augment=False)
"""Far enough from the first values that clients differ."""


@dataclass(frozen=True)
class Case:
    """A kind of adapter and the form of its Grams."""

    adapter: Adapter
    gram: str = "diagonal"

    def __str__(self) -> str:
        scaled = self.adapter.scaled if self.adapter.kind == "ia3" else ""
        return f"{self.adapter.kind} {scaled} {self.gram}"


CASES = [
    Case(Adapter(kind="vera", **TWO)),
    Case(Adapter(kind="vera", **TWO), "full"),
    Case(Adapter(kind="lora_xs", alpha=6.0, **TWO)),
    Case(Adapter(kind="lora_xs", **TWO), "full"),
    Case(Adapter(kind="ia3", **TWO)),
    Case(Adapter(kind="ia3", scaled="input", **TWO)),
    Case(Adapter(kind="ia3", scaled="peft", **TWO), "full"),
]
EVERY = pytest.mark.parametrize("case", CASES, ids=str)


def base(layer: str) -> tuple[Tensor, Tensor]:
    module = PLAIN.get_submodule(layer)
    return module.weight.detach().double(), module.bias.detach().double()


def inner(adapter: Adapter, layer: str) -> bool:
    return adapter.scaled == "input" or (adapter.scaled == "peft" and layer.endswith("fc2"))


def matrices(shared: Tensors, layer: str) -> tuple[Tensor, Tensor]:
    """VeRA's B and A."""
    d_out, d_in = base(layer)[0].shape
    return left_matrix(shared["vera"], d_out).double(), right_matrix(shared["vera"], d_in).double()


def coordinate(adapter: Adapter, shared: Tensors, values: Tensors, layer: str) -> Tensor:
    """What tasks are consolidated in: M (d_out x r), R (r x r), or l as a row."""
    if adapter.kind == "vera":
        b, d = values[f"vera_b/{layer}"].double(), values[f"vera_d/{layer}"].double()
        return torch.diag(b) @ matrices(shared, layer)[0] @ torch.diag(d)
    if adapter.kind == "lora_xs":
        return values[f"core_R/{layer}"].double()
    return values[f"scaling/{layer}"].double()[None]


def loaded(adapter: Adapter, weights: Tensors, layer: str) -> Tensor:
    """The same, of what the model loads to predict."""
    key = {"vera": "vera_M", "lora_xs": "core_R", "ia3": "scaling"}[adapter.kind]
    return torch.atleast_2d(weights[f"{key}/{layer}"]).double()


def layer_of(adapter: Adapter, shared: Tensors, coordinates: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """(weight, bias) of the dense layer that has this update."""
    w, c = base(layer)
    if adapter.kind == "vera":
        return w + coordinates @ matrices(shared, layer)[1], c
    if adapter.kind == "lora_xs":
        b, a = shared[f"core_B/{layer}"].double(), shared[f"core_A/{layer}"].double()
        return w + adapter.scale * b @ coordinates @ a, c
    scale = coordinates[0]
    return (w * scale, c) if inner(adapter, layer) else (scale[:, None] * w, scale * c)


def reads(world: World, shared: Tensors, updates: Mapping[str, Tensor], task: Task, client: str | None) -> Tensors:
    """(tokens, d_in) of every layer on a plain backbone with these updates; of a scaled input, before its scaling."""
    backbone, seen = load_backbone("tiny"), {}
    for name, coordinates in updates.items():
        module = backbone.module.get_submodule(name)
        weight, bias = layer_of(world.adapter, shared, coordinates, name)
        module.weight.data, module.bias.data = weight.float(), bias.float()
        module.register_forward_hook(lambda _m, x, _o, n=name: seen.__setitem__(n, x[0].flatten(0, -2).double()))
    with torch.no_grad():
        backbone.pool(backbone.module, {"pixel_values": world.pixels(task, client)})
    return seen


def shrunk(gram: Tensor, form: str) -> Tensor:
    """The Gram in the form of the options."""
    keep = SHRUNK if form == "full" else 0.0
    return keep * gram + (1 - keep) * torch.diag(gram.diagonal())


def round_gram(case: Case, shared: Tensors, kind: str, layer: str, x: Tensor) -> Tensor:
    """The Gram of the trained value, (d x d)."""
    adapter, gram = case.adapter, x.T @ x
    if kind == "vera_b":
        left, right = matrices(shared, layer)
        p = left @ torch.diag(shared[f"vera_d/{layer}"].double()) @ right
        return torch.diag((p @ gram @ p.T).diagonal())
    if kind == "vera_d":
        left, right = matrices(shared, layer)
        return (left.T @ torch.diag(shared[f"vera_b/{layer}"].double() ** 2) @ left) * (right @ gram @ right.T)
    if kind == "core_R":
        a = shared[f"core_A/{layer}"].double()
        return a @ gram @ a.T
    return scaling_gram(case, adapter, layer, x)


def scaling_gram(case: Case, adapter: Adapter, layer: str, x: Tensor) -> Tensor:
    w, c = base(layer)
    if not inner(adapter, layer):
        return torch.diag((x @ w.T + c).square().sum(0))
    entrywise = w.T @ w if case.gram == "full" else torch.ones(())
    return shrunk(entrywise * (x.T @ x), case.gram)


def task_gram(case: Case, shared: Tensors, layer: str, x: Tensor) -> Tensor:
    if case.adapter.kind == "ia3":
        return scaling_gram(case, case.adapter, layer, x)
    a = matrices(shared, layer)[1] if case.adapter.kind == "vera" else shared[f"core_A/{layer}"].double()
    return shrunk(a @ x.T @ x @ a.T, case.gram)


def solved(products: Tensor, gram: Tensor, mean: Tensor) -> Tensor:
    lam = RIDGE * gram.trace() / len(gram)
    return (products + lam * mean) @ torch.linalg.inv(gram + lam * torch.eye(len(gram), dtype=torch.float64))


def near(found: Tensor, expected: Tensor, mean: Tensor, gram: Tensor) -> bool:
    """Equal in the directions that the Gram has seen, by the measure of how far the closed form is from the mean."""
    root = torch.linalg.cholesky(gram + 1e-9 * gram.trace() * torch.eye(len(gram), dtype=torch.float64))
    return bool(((found - expected) @ root).norm() <= 0.01 * ((expected - mean) @ root).norm())


def averaged(world: World, shared: Tensors, values: Tensors, done: int) -> dict[str, Tensor]:
    """The mean over the finished tasks and the current one."""
    tasks = [*(select(shared, f"task/{t}") for t in range(done)), values]
    return {
        layer: sum(coordinate(world.adapter, shared, task, layer) for task in tasks) / len(tasks)
        for layer in world.model.layers
    }


def stepwise(events: list[Event], phase: str) -> list[tuple[Event, Event]]:
    return [(a, b) for a, b in pairwise(events) if b.round.phase == phase]


@EVERY
def test_rounds_and_tasks_are_the_dense_formulas(case: Case, world: Make) -> None:
    here = world(sizes=(4, 6), clients=2, adapter=case.adapter, plan=FAST)
    kind = kind_of(case.adapter)
    rounds = len(kind.trained) + 1  # VeRA's b once more, with a d that has been trained
    method = here.method("lorm", rounds=rounds, gram=case.gram, gram_off_diagonal=SHRUNK)
    events = here.run(method)
    for before, event in stepwise(events, "train"):
        check_round(here, case, method, before, event, kind.trained[event.round.index % len(kind.trained)])
    sums: dict[str, list[Tensor]] = {layer: [] for layer in here.model.layers}
    for before, event in stepwise(events, "consolidate"):
        shared, done = before.state.shared, event.round.task.index
        x = reads(here, shared, averaged(here, shared, shared, done), event.round.task, None)
        predicted = memory.predicting(event.state.shared, kind)
        for layer in here.model.layers:
            sums[layer].append(task_gram(case, shared, layer, x[layer]))
            tasks = [
                coordinate(case.adapter, shared, select(event.state.shared, f"task/{t}"), layer) for t in range(done)
            ]
            tasks.append(coordinate(case.adapter, shared, shared, layer))
            products = sum(v @ g for v, g in zip(tasks, sums[layer], strict=True))
            gram, mean = sum(sums[layer]), sum(tasks) / len(tasks)
            found = loaded(case.adapter, predicted, layer)
            if done:
                assert near(found, solved(products, gram, mean), mean, gram), (event.round, layer)
            else:
                assert torch.allclose(found, mean, rtol=1e-3, atol=1e-6)  # of one task it is the task's own


def check_round(here: World, case: Case, method: Any, before: Event, event: Event, trained: str) -> None:
    """What is merged of the clients' values, and that nothing else of the adapter has changed."""
    shared, task = before.state.shared, event.round.task
    found, grams, counts = [], [], []
    for client in sorted(here.clients):
        data = here.clients[client].train(task)
        update = method.phases["train"].client_update(here.model, shared, data, event.round)
        mine = {**shared, **{k: v for k, v in update.items() if k.startswith(f"{trained}/")}}
        x = reads(here, shared, averaged(here, shared, mine, task.index), task, client)
        found.append(update)
        grams.append({layer: round_gram(case, shared, trained, layer, x[layer]) for layer in here.model.layers})
        counts.append(len(data))
    for layer in here.model.layers:
        key = f"{trained}/{layer}"
        values = [torch.atleast_2d(update[key]).double() for update in found]
        gram = sum(g[layer] for g in grams)
        mean = sum(n * v for n, v in zip(counts, values, strict=True)) / sum(counts)
        expected = solved(sum(v @ g[layer] for v, g in zip(values, grams, strict=True)), gram, mean)
        assert near(torch.atleast_2d(event.state.shared[key]).double(), expected, mean, gram), (event.round, key)
        assert not torch.equal(event.state.shared[key], shared[key])
    changed = {k.split("/")[0] for k, v in event.state.shared.items() if not torch.equal(v, shared[k])}
    assert changed == {trained, "head"}


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[5]], ids=str)
def test_tasks_start_afresh_in_one_frame_and_messages_are_small(case: Case, world: Make) -> None:
    """One value a layer and its Gram up; down what is new: no frozen matrix a second time, and none of VeRA's ever."""
    here = world(sizes=(4, 6), clients=2, adapter=case.adapter)
    kind = kind_of(case.adapter)
    events = here.run(here.method("lorm"))
    first, second = (event.state.shared for event in events if event.round.phase == "start")
    same = kind.frozen if case.adapter.kind == "lora_xs" else (*kind.frozen, *kind.trained)
    assert all(torch.equal(second[key], first[key]) for key in second if key.split("/")[0] in same)
    sent: dict[str, int] = {}
    for before, event in stepwise(events, "train"):
        shared = before.state.shared
        head = shared[f"head/{event.round.task.index}"]
        trained = sum(v.numel() for k, v in shared.items() if k.split("/")[0] in kind.trained)
        vectors = sum(v.numel() for k, v in shared.items() if k.startswith("solved/"))
        frozen = sum(v.numel() for k, v in shared.items() if k.startswith("core_") and not k.startswith("core_R"))
        for client, size in event.outcome.bytes_down.items():
            first = client not in sent
            assert size <= 4 * (trained + head.numel() + vectors + (frozen if first else 0)) + 20_000
            sent[client] = size
        width = head.shape[1]
        largest = 4 * (2 * trained + head.numel() + width * (width + 1) // 2) + 12_000
        assert max(event.outcome.bytes_up.values()) <= largest
