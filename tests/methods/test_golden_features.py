"""The methods that solve heads on features, against estimators that see all samples of all clients and tasks."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from torch.nn import functional as F

from fedbraid.algebra import Tensors, select
from fedbraid.core import Event, Round, State, Task
from fedbraid.linalg import from_triangle
from fedbraid.merges.gaussians import draw
from fedbraid.models import AdaptedModel, Adapter, load_backbone

World = Any
Make = Callable[..., World]
NONE = Adapter(kind="none")
LORA = Adapter(rank=2, blocks="0", layers=("q_proj", "fc1"))


def rounds(events: list[Event], phase: str) -> list[tuple[State, Event]]:
    """(the state before, the event) of every round of the phase."""
    before = [State(), *(event.state for event in events)]
    return [(state, event) for state, event in zip(before, events, strict=False) if event.round.phase == phase]


def features(values: Mapping[str, Tensor], pixels: Tensor) -> Tensor:
    """(n, width) of a backbone without peft, of dense weights; random features by `projection`, (seed, size)."""
    backbone = load_backbone("tiny")
    with torch.no_grad():
        for name, b in select(values, "lora_B").items():
            backbone.module.get_submodule(name).weight += b @ values[f"lora_A/{name}"]
        found = backbone.pool(backbone.module, {"pixel_values": pixels})
    if "projection" not in values:
        return found.double()
    seed, size = values["projection"].tolist()
    drawn = torch.randn(found.shape[1], size, generator=torch.Generator().manual_seed(seed))
    return (found @ drawn / found.shape[1] ** 0.5).clamp_min(0).double()


def labels(here: World, task: Task, client: str | None = None) -> Tensor:
    """In the order of `World.pixels`."""
    found = [party.train(task) for name, party in here.clients.items() if client in (None, name)]
    return torch.cat([data.labels[data.indices] for data in found])


def samples(here: World, shared: Tensors, until: Task) -> tuple[Tensor, Tensor]:
    """(features with a constant 1, labels) of all clients in all tasks so far, on the model that is shared."""
    tasks = here.tasks[: until.index + 1]
    f = torch.cat([features(shared, here.pixels(task)) for task in tasks])
    return F.pad(f, (0, 1), value=1.0), torch.cat([labels(here, task) for task in tasks])


def fitted(f: Tensor, y: Tensor, classes: int, ridge: float) -> Tensor:
    """The head of scikit-learn; `ridge` is relative to the mean squared length of a column."""
    lam = ridge * f.square().sum().item() / f.shape[1]
    known = Ridge(alpha=lam, fit_intercept=False, solver="svd").fit(f.numpy(), F.one_hot(y, classes).double().numpy())
    return torch.from_numpy(known.coef_)


def head(shared: Tensors) -> Tensor:
    return torch.cat([rows for _, rows in sorted(select(shared, "head").items())]).double()


def near(a: Tensor, b: Tensor, tolerance: float = 1e-3) -> bool:
    """In relative norm: the sums cross the wire in fp32."""
    return bool(torch.linalg.norm(a - b) <= tolerance * torch.linalg.norm(b))


# --- the ridge family ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"), [("afl", {}), ("ranpac_fed", {"features": 30}), ("stsa", {"features": 30})], ids=str
)
@pytest.mark.parametrize("clients", [1, 2, 5])
def test_the_head_is_that_of_all_samples_in_one_place(
    name: str, options: dict[str, int], clients: int, world: Make
) -> None:
    """After every task, for every partition: so a federation equals centralised training."""
    here = world(clients=clients, adapter=LORA if name == "stsa" else NONE)
    events = here.run(here.method(name, ridges=(0.01,), **options))
    found = rounds(events, "ridge")
    assert len(found) == 3
    for before, after in found:
        f, y = samples(here, before.shared, after.round.task)
        assert near(head(after.state.shared), fitted(f, y, after.round.task.seen, 0.01))


def test_the_head_does_not_depend_on_the_partition(world: Make) -> None:
    ends = []
    for clients in (1, 2, 5):
        here = world(clients=clients, adapter=NONE)
        ends.append(head(here.run(here.method("ranpac_fed", features=30, ridges=(0.01,)))[-1].state.shared))
    assert near(ends[0], ends[1], 1e-4)
    assert near(ends[0], ends[2], 1e-4)


def test_the_ridge_is_chosen_on_samples_held_out_and_the_head_solved_on_all(world: Make) -> None:
    """A direct search with the samples that the clients held out of each task."""
    ridges = (1e-4, 0.03, 1.0, 30.0)
    here = world(adapter=NONE)
    chosen = []
    for _, after in rounds(here.run(here.method("afl", ridges=ridges, held_out=0.3)), "ridge"):
        classes, f, y, held = after.round.task.seen, [], [], []
        for task in here.tasks[: after.round.task.index + 1]:
            for client, party in here.clients.items():
                f.append(F.pad(features({}, here.pixels(task, client)), (0, 1), value=1.0))
                y.append(labels(here, task, client))
                draws = Round(task, "ridge", 0, 0).generator("held out", client)
                held.append(torch.rand(len(party.train(task)), generator=draws) < 0.3)
        f, y, held = torch.cat(f), torch.cat(y), torch.cat(held)
        hot = F.one_hot(y, classes).double()
        errors = [
            (f[held] @ fitted(f[~held], y[~held], classes, ridge).T - hot[held]).square().sum() for ridge in ridges
        ]
        chosen.append(ridges[int(np.argmin(errors))])
        assert near(head(after.state.shared), fitted(f, y, classes, chosen[-1]), 1e-2)
    assert set(chosen) < set(ridges)


def test_random_features_are_one_projection_for_all(world: Make) -> None:
    here = world(adapter=NONE)
    events = here.run(here.method("ranpac_fed", features=30))
    drawn = {tuple(event.state.shared["projection"].tolist()) for event in events}
    assert len(drawn) == 1
    pixels = here.pixels(here.tasks[0], "0")
    for seed in (0, 1):  # two clients' models, wherever their global generators are
        torch.manual_seed(seed)
        model = AdaptedModel(load_backbone("tiny"), NONE)
        model.load({"projection": events[0].state.shared["projection"]})
        with torch.no_grad():
            found = model.features({"pixel_values": pixels})
        assert torch.allclose(found.double(), features(events[0].state.shared, pixels), atol=1e-5)
        assert (found == 0).any()
    assert tuple(here.run(here.method("ranpac_fed", features=30), seed=1)[0].state.shared["projection"]) not in drawn


@pytest.mark.parametrize("size", [0, 30])
def test_stsa_adapts_in_the_first_task_alone(size: int, world: Make) -> None:
    here = world(adapter=LORA)
    events = here.run(here.method("stsa", features=size))
    assert [e.round.task.index for e in events if e.round.phase == "train"] == [0, 0]
    assert {e.round.phase for e in events if e.round.task.index > 0} == {"ridge"}
    last = [e for e in events if e.round.phase == "train"][-1].state.shared
    adapter = {key: value for key, value in last.items() if key.startswith("lora")}
    assert any(value.any() for key, value in adapter.items() if key.startswith("lora_B"))
    for event in events[events.index([e for e in events if e.round.phase == "train"][-1]) :]:
        assert all(torch.equal(event.state.shared[key], value) for key, value in adapter.items())
    assert ("projection" in events[-1].state.shared) == (size > 0)
    assert head(events[-1].state.shared).shape == (10, (size or here.model.width) + 1)


# --- calibration --------------------------------------------------------------------------------------------------


def test_ccvr_keeps_the_gaussians_of_pooled_features(world: Make) -> None:
    here = world(adapter=LORA)
    seen: dict[str, Tensor] = {}
    for before, after in rounds(here.run(here.method("ccvr", samples=4)), "calibrate"):
        task = after.round.task
        f, y = features(before.shared, here.pixels(task)).numpy(), labels(here, task).numpy()
        server = after.state.server
        for place, c in enumerate(task.classes):
            name = f"gaussian/{task.index}/{place}"
            covariance = np.cov(f[y == c], rowvar=False)
            assert np.allclose(server[f"{name}/mean"].numpy(), f[y == c].mean(0), atol=1e-5)
            found = from_triangle(server[f"{name}/covariance"].double()).numpy()
            assert np.abs(found - covariance).max() <= 1e-4 * np.abs(covariance).max()
        assert all(torch.equal(server[key], value) for key, value in seen.items())  # old ones are left alone
        seen = dict(server)
    assert len(seen) == 2 * 10


def test_one_step_of_calibration_is_the_gradient_of_normalised_logits(world: Make) -> None:
    """All classes seen, old ones too, from features that this test draws itself."""
    here = world(adapter=LORA)
    method = here.method("ccvr", samples=8, epochs=1, lr=0.5, temperature=0.2)
    for before, after in rounds(here.run(method), "calibrate"):
        round, server = after.round, after.state.server
        draws, f, y = round.generator("calibration"), [], []
        for t in range(round.task.index + 1):
            start, end = round.task.offsets[t : t + 2]
            for c in range(start, end):
                known = select(server, f"gaussian/{t}/{c - start}")
                f.append(draw(known["mean"], from_triangle(known["covariance"].double()), 8, draws))
                y += [c] * 8
        x, w = F.pad(torch.cat(f), (0, 1), value=1.0), head(before.shared).requires_grad_()
        z = x @ w.T
        p = (z / z.square().sum(1, keepdim=True).sqrt() / 0.2).softmax(1)
        loss = -p[torch.arange(len(y)), y].log().mean()
        (gradient,) = torch.autograd.grad(loss, w)
        assert near(head(after.state.shared), w.detach() - 0.5 * gradient, 1e-5)
        assert all(not torch.equal(after.state.shared[k], v) for k, v in before.shared.items() if k.startswith("head"))


def test_a_calibrated_head_is_better_than_that_of_masked_training(world: Make) -> None:
    """Tasks trained apart do not compare; heads that were calibrated together do."""
    here = world(adapter=LORA)
    events = here.run(here.method("ccvr"))
    plain, calibrated = (
        [e.test.total["correct"].sum().item() for e in events if e.round.phase == phase][-1]
        for phase in ("train", "calibrate")
    )
    assert calibrated > plain
    assert calibrated > 3 * 50 / 10  # three times chance
