"""PILoRA against plain computations: distances, the penalty, the sum over tasks, the gather."""

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedbraid.algebra import Tensors, select
from fedbraid.core import Batch, Event, Round, State
from fedbraid.engine import Start
from fedbraid.errors import UserError
from fedbraid.local.objectives import Step
from fedbraid.masking import owned
from fedbraid.methods.pilora import PILoRA, affine_rows
from fedbraid.models import Adapter, load_backbone
from fedbraid.models.heads import logits

World = Any
Make = Callable[..., World]
ADAPTER = PILoRA().adapter(Adapter(rank=2))
LAYERS = ["layers.0.attention.q_proj", "layers.0.attention.v_proj"]


@pytest.fixture
def pilora(world: Make) -> Make:
    """A tiny world whose adapter is the one that the method asks for."""
    return lambda **settings: world(**{"adapter": ADAPTER, **settings})


def rounds(events: list[Event], phase: str) -> list[tuple[Event, Event]]:
    """(the event before, the event) of every round of the phase."""
    return [(a, b) for a, b in pairwise(events) if b.round.phase == phase]


def equal(a: State, b: State) -> bool:
    return set(a.shared) == set(b.shared) and all(torch.equal(a.shared[key], b.shared[key]) for key in a.shared)


def updates(world: World, method: Any, before: Event, event: Event) -> dict[str, dict[str, Tensor]]:
    """What every client sends in this round."""
    phase = method.phases["train"]
    return {
        name: phase.client_update(world.model, before.state.shared, party.train(event.round.task), event.round)
        for name, party in world.clients.items()
    }


def update_of(shared: Tensors, layer: str, tasks: int) -> Tensor:
    """`sum_s B_s A_s` over the finished tasks and the current one, dense."""
    places = [*(f"task/{t}/" for t in range(tasks)), ""]
    factors = [(shared[f"{p}lora_B/{layer}"].double(), shared[f"{p}lora_A/{layer}"].double()) for p in places]
    return sum((b @ a for b, a in factors), torch.zeros(()))


# --- the classifier -----------------------------------------------------------------------------------------------


def test_the_affine_head_ranks_by_distance() -> None:
    draws = torch.Generator().manual_seed(0)
    rows = torch.cat([3 * torch.randn(7, 12, generator=draws), torch.zeros(7, 1)], dim=1)
    features = 3 * torch.randn(50, 12, generator=draws)
    distances = (features[:, None] - rows[:, :-1]).square().sum(2)
    z = logits(features, affine_rows(rows, gamma=2.5))
    assert torch.equal(z.argmax(1), distances.argmin(1))
    assert torch.allclose(z.softmax(1), (-2.5 * distances / 12).softmax(1), atol=1e-5)


def test_the_nearest_prototype_of_all_classes_seen_predicts(pilora: Make) -> None:
    here = pilora()
    method = here.method("pilora")
    event = here.run(method)[-1]
    shared = event.state.shared
    prototypes = torch.cat([shared[f"head/{t}"][:, :-1] for t in range(3)])
    here.model.load(method.predicting(shared))
    here.model.train(False)
    batch = next(here.evaluators["test"].test(here.tasks[-1]).batches(1000, device=torch.device("cpu")))
    with torch.no_grad():
        nearest = torch.cdist(here.model.features(batch.inputs), prototypes).argmin(1)
    right = (nearest == batch.labels).long()
    groups = torch.bucketize(batch.labels, torch.tensor([3, 5]), right=True)
    assert event.test.total["correct"].tolist() == torch.bincount(groups, right, minlength=3).tolist()


# --- local training -----------------------------------------------------------------------------------------------


def step(world: World, received: Tensors, task: int = 1) -> Step:
    """One step on random features, with trained factors and prototypes."""
    draws = torch.Generator().manual_seed(1)
    classes = world.tasks[task].classes
    fresh = world.model.fresh(draws) | {f"head/{task}": torch.randn(len(classes), 97, generator=draws)}
    labels = torch.randint(classes.start, classes.stop, (6,), generator=draws)
    features = torch.randn(6, 96, generator=draws).requires_grad_()
    parameters = {key: nn.Parameter(value) for key, value in fresh.items()}
    round, data = Round(world.tasks[task], "train", 0, 0), world.clients["0"].train(world.tasks[task])
    return Step(world.model, parameters, received, round, data, Batch({}, labels), features, torch.zeros(0))


def loss(step: Step, method: Any) -> list[Tensor]:
    return [objective(step) for objective in method.phases["train"].objectives]


def test_the_loss_is_that_of_its_formula(pilora: Make) -> None:
    here = pilora()
    seen = step(here, {})
    nearest, compact, _ = loss(seen, here.method("pilora", gamma=3.0, compactness=0.5))
    total, distance = 0.0, 0.0
    for feature, label in zip(seen.features, seen.batch.labels.tolist(), strict=True):
        d = [math.dist(feature.tolist(), m.tolist()) ** 2 / 96 for m in seen.parameters["head/1"][:, :-1]]
        total += 3 * d[label - 3] + math.log(sum(math.exp(-3 * x) for x in d))
        distance += 0.5 * d[label - 3]
    assert nearest.item() == pytest.approx(total / 6, rel=1e-5)
    assert compact.item() == pytest.approx(distance / 6, rel=1e-5)
    (nearest + compact).backward()
    assert not seen.parameters["head/1"].grad[:, -1].any()


def test_the_penalty_is_that_of_all_pairs_of_rows(pilora: Make) -> None:
    here = pilora()
    draws = torch.Generator().manual_seed(2)
    received = {
        f"task/{t}/lora_{kind}/{layer}": torch.randn(2, 96, generator=draws).requires_grad_()
        for t in range(2)
        for kind in "AB"
        for layer in LAYERS
    }
    seen = step(here, {key: value.detach() for key, value in received.items()})
    penalty = loss(seen, here.method("pilora", orthogonality=0.7))[2]
    expected = sum(
        abs(sum(float(x) * float(y) for x, y in zip(row, old, strict=True)))
        for t in range(2)
        for layer in LAYERS
        for row in seen.parameters[f"lora_A/{layer}"].tolist()
        for old in received[f"task/{t}/lora_A/{layer}"].tolist()
    )
    assert penalty.item() == pytest.approx(0.7 * expected, rel=1e-5)
    penalty.backward()
    touched = {key for key, value in seen.parameters.items() if value.grad is not None}
    assert touched == {f"lora_A/{layer}" for layer in LAYERS}
    assert all(value.grad is None for value in received.values())


def test_the_first_task_has_no_penalty(pilora: Make) -> None:
    here = pilora()
    assert loss(step(here, {}), here.method("pilora", orthogonality=7.0))[2].item() == 0


def test_the_penalty_keeps_tasks_apart(pilora: Make) -> None:
    def overlap(**options: float) -> float:
        here = pilora(sizes=(4, 6))
        shared = here.run(here.method("pilora", rounds=3, **options))[-1].state.shared
        return sum(
            (shared[f"lora_A/{layer}"] @ shared[f"task/0/lora_A/{layer}"].T).abs().sum().item() for layer in LAYERS
        )

    assert overlap(orthogonality=0.5) < overlap(orthogonality=0.0)


# --- the model ----------------------------------------------------------------------------------------------------


def test_the_method_chooses_its_layers() -> None:
    chosen = PILoRA().adapter(Adapter(rank=3, dropout=0.1, layers="mlp", blocks="4"))
    assert chosen == Adapter(rank=3, dropout=0.1, layers="qv", blocks="0")
    assert PILoRA(layers="all", blocks="1-2").adapter(Adapter()).blocks == "1-2"


def test_the_model_is_the_sum_of_all_tasks(pilora: Make) -> None:
    here = pilora()
    method = here.method("pilora")
    pixels = here.pixels(here.tasks[0])
    for event in here.run(method):
        if event.round.phase != "train":
            continue
        shared, task = event.state.shared, event.round.task.index
        backbone = load_backbone("tiny")
        for layer in LAYERS:
            weight = backbone.module.get_submodule(layer).weight
            weight.data = (weight.double() + update_of(shared, layer, task)).float()
        for weights in (method.predicting(shared), method.phases["train"].weights(shared, event.round)):
            here.model.load(weights)
            here.model.train(False)
            with torch.no_grad():
                expected = backbone.pool(backbone.module, {"pixel_values": pixels})
                assert torch.allclose(here.model.features({"pixel_values": pixels}), expected, atol=1e-4)
    assert all(shared[f"task/{t}/lora_B/{layer}"].any() for t in range(2) for layer in LAYERS)


def test_a_task_changes_nothing_of_earlier_ones(pilora: Make) -> None:
    here = pilora()
    events = here.run(here.method("pilora"))
    ends = {e.round.task.index: e.state.shared for e in events}
    for event in events:
        for t in range(event.round.task.index):
            assert torch.equal(event.state.shared[f"head/{t}"], ends[t][f"head/{t}"])
            for key, value in select(event.state.shared, f"task/{t}").items():
                assert torch.equal(value, ends[t][key])
    for _, event in rounds(events, "start"):
        assert all(not event.state.shared[f"lora_B/{layer}"].any() for layer in LAYERS)


def test_factors_of_finished_tasks_travel_once(pilora: Make) -> None:
    """A download holds what the last round merged, and at the start of a task its fresh values: nothing older."""
    here = pilora(adapter=PILoRA().adapter(Adapter(rank=16)))
    for before, event in rounds(here.run(here.method("pilora", start="random")), "train"):
        merged = sum(before.state.shared[f"lora_{kind}/{layer}"].numel() for kind in "AB" for layer in LAYERS)
        heads = sum(value.numel() for value in select(before.state.shared, "head").values())
        last = merged if event.round.index == 0 and event.round.task.index else 0
        assert max(event.outcome.bytes_down.values()) <= 4 * (merged + last + heads) + 3_000 < 4 * 2.6 * merged


# --- prototypes ---------------------------------------------------------------------------------------------------


def test_prototypes_start_from_the_means_of_the_features(pilora: Make) -> None:
    here = pilora()
    events = here.run(here.method("pilora"))
    before, event = rounds(events, "means")[0]
    features: dict[int, list[Tensor]] = {}
    backbone = load_backbone("tiny")
    for party in here.clients.values():
        for batch in party.train(event.round.task).batches(1000, device=torch.device("cpu")):
            with torch.no_grad():
                rows = backbone.pool(backbone.module, batch.inputs)
            for row, label in zip(rows, batch.labels.tolist(), strict=True):
                features.setdefault(label, []).append(row)
    for label, rows in features.items():
        assert torch.allclose(event.state.shared["head/0"][label, :-1], torch.stack(rows).mean(0), atol=1e-5)
    changed = {key for key, value in event.state.shared.items() if not torch.equal(value, before.state.shared[key])}
    assert changed == {"head/0"}
    plain = here.run(here.method("pilora", start="random"))
    assert [e.round.phase for e in plain][:2] == ["start", "train"]


def test_a_round_averages_factors_and_reweights_prototypes(pilora: Make) -> None:
    here = pilora()
    method = here.method("pilora", temperature=0.5)
    for before, event in rounds(here.run(method), "train"):
        sent = updates(here, method, before, event)
        counts = [update["count"].item() for update in sent.values()]
        for layer in LAYERS:
            for key in (f"lora_A/{layer}", f"lora_B/{layer}"):
                weighted = sum(n * update[key].double() for n, update in zip(counts, sent.values(), strict=True))
                assert torch.allclose(event.state.shared[key].double(), weighted / sum(counts), atol=1e-6)
        rows = event.state.shared[f"head/{event.round.task.index}"]
        for place in range(len(event.round.task.classes)):
            assert torch.allclose(rows[place, :-1].double(), reweighted_by_loops(sent, place, 0.5), atol=1e-5)
        assert not rows[:, -1].any()


def reweighted_by_loops(sent: dict[str, dict[str, Tensor]], place: int, temperature: float) -> Tensor:
    """The prototype of a class from what the clients sent, client by client."""
    own = {client: select(update, f"beside/client/{client}") for client, update in sent.items()}
    owners = [client for client, values in own.items() if values["count"][place] > 0]
    means = {client: own[client]["first"][place] / own[client]["count"][place] for client in owners}
    prototypes = {client: own[client]["prototypes"][place].double() for client in owners}
    near = {i: 1 / sum((prototypes[i] - means[j]).norm().item() for j in owners) for i in owners}
    least, most = min(near.values()), max(near.values())
    powers = {i: math.exp((n - least) / (most - least) / temperature) if most > least else 1 for i, n in near.items()}
    return sum((powers[i] * prototypes[i] for i in owners), torch.zeros(())) / sum(powers.values())


def test_a_class_that_no_drawn_client_has_keeps_its_prototype(pilora: Make) -> None:
    """And a client that lacks a class has no part in it."""
    whole = pilora()
    labels = whole.stream.place(whole.dataset.train.labels).tolist()
    owners = {"0": (0, 3, 4), "1": (1, *range(5, 10)), "2": (2,)}
    shares = {client: [i for i, label in enumerate(labels) if label in owned] for client, owned in owners.items()}
    here = pilora(shares={client: shares[client] for client in "01"})
    for start in ("means", "random"):
        method = here.method("pilora", start=start)
        for before, event in rounds(here.run(method), "train"):
            if event.round.task.index == 0:
                rows = event.state.shared["head/0"]
                assert torch.equal(rows[2], before.state.shared["head/0"][2])
                for client, place in (("0", 0), ("1", 1)):
                    mine = updates(here, method, before, event)[client]["head/0"]
                    assert torch.allclose(rows[place], mine[place], atol=1e-6)


# --- runs ---------------------------------------------------------------------------------------------------------


def test_everything_that_leaves_a_client_is_named(pilora: Make) -> None:
    here = pilora()
    method = here.method("pilora")
    before, event = rounds(here.run(method), "train")[0]
    update = updates(here, method, before, event)["1"]
    factors = {f"lora_{kind}/{layer}" for kind in "AB" for layer in LAYERS}
    own = {f"beside/client/1/{name}" for name in ("prototypes", "first", "count")}
    assert set(update) == {"count", "metric/loss", "metric/samples", "head/0", *factors, *own}
    lifted = method.phases["train"].lift(before.state.shared, update, event.round)
    assert "sum/head/0" not in lifted
    assert owned(method, here.stream.tasks) == [f"beside/client/*/{name}" for name in ("count", "first", "prototypes")]


@pytest.mark.parametrize("options", [{}, {"sampled": 2}, {"start": "random"}])
def test_a_resumed_run_ends_in_the_same_bits(options: dict[str, Any], pilora: Make) -> None:
    here = pilora(sizes=(4, 6))
    method = here.method("pilora", **options)
    events = here.run(method)
    assert all(torch.isfinite(value).all() for event in events for value in event.state.shared.values())
    for event in events:
        here.model = here.fresh_model()
        rest = here.run(method, start=Start(event.number + 1, copy.deepcopy(event.state)))
        assert all(equal(one.state, two.state) for one, two in zip(rest, events[event.number + 1 :], strict=True))
    assert not equal(events[-1].state, here.run(method, seed=1)[-1].state)


def test_lifting_on_either_side_gives_one_model(pilora: Make) -> None:
    here = pilora(sizes=(4, 6))
    method = here.method("pilora")
    one, two = (here.run(method, lift_on=side)[-1].state.shared for side in ("server", "client"))
    assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in one)


def test_a_client_without_a_task(pilora: Make) -> None:
    whole = pilora()
    labels = whole.stream.place(whole.dataset.train.labels).tolist()
    second = [i for i, label in enumerate(labels) if label < 3][::2]
    here = pilora(shares={"0": [i for i in range(len(labels)) if i not in second], "1": second})
    events = here.run(here.method("pilora"))
    idle = {e.round.task.index: e.outcome.idle for e in events if e.outcome.reported}
    assert idle == {0: (), 1: ("1",), 2: ("1",)}
    assert all(torch.isfinite(value).all() for value in events[-1].state.shared.values())


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"gamma": 0.0}, r"method\.gamma = 0\.0: must be above 0"),
        ({"temperature": 0.0}, r"method\.temperature = 0\.0"),
        ({"compactness": -1.0}, r"method\.compactness = -1\.0: must not be negative"),
        ({"orthogonality": -1.0}, r"method\.orthogonality = -1\.0"),
        ({"gamma": float("nan")}, r"method\.gamma = nan"),
    ],
)
def test_options_out_of_range(options: dict[str, float], error: str, pilora: Make) -> None:
    here = pilora(sizes=(4, 6))
    with pytest.raises(UserError, match=error):
        here.method("pilora", **options)


def test_a_scale_other_than_one_is_refused(pilora: Make) -> None:
    here = pilora(sizes=(4, 6))
    here.adapter = Adapter(rank=2, alpha=4.0)
    with pytest.raises(UserError, match=r"method 'pilora' has LoRA scale 1; remove adapter\.alpha = 4"):
        here.method("pilora")
