"""Every method with its options, end to end in a tiny world."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from fedbraid.core import Event, State
from fedbraid.engine import Start, schedule
from fedbraid.errors import UserError
from fedbraid.local.objectives import cross_entropy
from fedbraid.local.training import Training, train
from fedbraid.methods import METHODS
from fedbraid.models import Adapter

World = Any
Make = Callable[..., World]
FULL, NONE = Adapter(kind="full"), Adapter(kind="none")
LORM = [
    {},
    {"gram": "low_rank", "gram_rank": 3},
    {"gram": "full"},
    {"gram_model": "trained"},
    {"gram": "full", "gram_model": "trained", "gram_off_diagonal": 0.5},
    {"head_bias": "averaged", "head_off_diagonal": 1.0},
    {"gram_passes": 2, "gram_data": "augmented", "ridge": 1e-3},
]
PROMPTS: dict[str, dict[str, Any]] = {"l2p": {}, "dualprompt": {}, "coda_prompt": {"components": 3}}
CASES = [
    *[("lorm", options, None) for options in LORM],
    ("fedavg", {}, None),
    ("fedavg", {}, FULL),
    ("fedavg", {}, NONE),
    ("fedit", {}, None),
    ("pilora", {}, None),
    ("pilora", {"start": "random", "compactness": 0.1}, None),
    ("joint", {}, None),
    ("target", {"steps": 2, "generator_batch": 4, "images": 3, "batch": 4}, None),
    *[(name, options, METHODS[name](**options).adapter(Adapter(kind="prompt"))) for name, options in PROMPTS.items()],
]


def same(a: State, b: State) -> bool:
    return all(
        set(x) == set(y) and all(torch.equal(x[key], y[key]) and x[key].dtype == y[key].dtype for key in x)
        for x, y in ((a.shared, b.shared), (a.server, b.server))
    )


def tensors(state: State) -> dict[str, Tensor]:
    return {
        **{f"shared/{k}": v for k, v in state.shared.items()},
        **{f"server/{k}": v for k, v in state.server.items()},
    }


@pytest.mark.parametrize(("name", "options", "adapter"), CASES, ids=str)
def test_it_runs(name: str, options: dict[str, Any], adapter: Adapter | None, world: Make) -> None:
    joint = METHODS[name].about.centralised
    here = world(**({"adapter": adapter} if adapter else {}), **({"clients": 1, "joined": True} if joint else {}))
    method = here.method(name, test_offsets=(0, 3, 5, 10) if joint else None, **options)
    events = here.run(method, seed=3)
    assert [e.round for e in events] == [r for r, _ in schedule(method, here.tasks, 3)]
    assert [e.number for e in events] == list(range(len(events)))
    for event in events:
        assert all(torch.isfinite(value).all() for value in tensors(event.state).values())
        kinds = (torch.float32, torch.int64, torch.uint8)
        assert all(value.dtype in kinds for value in event.state.shared.values())
        if event.test:
            groups = [15, 10, 25] if joint else [15, 10, 25][: event.round.task.index + 1]
            assert event.test.total["total"].tolist() == groups
            assert (event.test.total["correct"] <= event.test.total["total"]).all()
        if event.outcome.reported:
            assert set(event.outcome.reported) == set(here.clients)
            assert all(size > 0 for size in event.outcome.bytes_up.values())
    final = events[-1].state.shared
    sizes = [10] if joint else [3, 2, 5]
    for task, size in enumerate(sizes):
        assert final[f"head/{task}"].shape == (size, here.model.width + 1)
    last = [e for e in events if e.round.task.index == len(sizes) - 1 and e.test]
    assert last, "the last task is evaluated"


@pytest.mark.parametrize(("name", "adapter"), [("lorm", None), ("fedavg", FULL), ("fedit", None)])
def test_the_same_seed_gives_the_same_bits_and_another_does_not(
    name: str, adapter: Adapter | None, world: Make
) -> None:
    here = world(sizes=(4, 6), **({"adapter": adapter} if adapter else {}))
    method = here.method(name)
    first = here.run(method, seed=1)
    torch.manual_seed(12345)
    there = world(sizes=(4, 6), **({"adapter": adapter} if adapter else {}))
    second = there.run(there.method(name), seed=1)
    assert all(same(a.state, b.state) for a, b in zip(first, second, strict=True))
    again = here.run(method, seed=1)  # on a model that has been used
    assert same(first[-1].state, again[-1].state)
    assert not same(first[-1].state, here.run(method, seed=2)[-1].state)


def test_a_run_leaves_the_global_generator_alone(world: Make) -> None:
    here = world(sizes=(4, 6))
    before = torch.get_rng_state()
    here.run(here.method("lorm"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "options", "adapter"),
    [
        ("lorm", {"sampled": 2}, Adapter(rank=2, blocks="0", layers="mlp", dropout=0.3)),
        ("lorm", {"gram": "full"}, None),
        ("fedavg", {}, FULL),
    ],
)
def test_a_resumed_run_ends_in_the_same_bits(
    name: str, options: dict[str, Any], adapter: Adapter | None, world: Make
) -> None:
    """Stopped after any event, continued by another process's model with what a checkpoint would hold."""
    from fedbraid.engine import run

    here = world(sizes=(4, 6), **({"adapter": adapter} if adapter else {}))
    method, stops = here.method(name, **options), []
    runtime = here.runtime(method)
    for event in run(method, here.model, here.tasks, runtime, seed=0):
        shuffled = sorted(event.state.shared, key=lambda key: key[::-1])  # no promise about the order of names
        held = State({k: event.state.shared[k].clone() for k in shuffled}, dict(event.state.server))
        stops.append((event, held, json.dumps(runtime.memory())))
    final = stops[-1][0]
    for event, held, memory in stops:
        here.model = here.fresh_model()
        again = here.runtime(method, memory=json.loads(memory))
        rest = list(run(method, here.model, here.tasks, again, seed=0, start=Start(event.number + 1, held)))
        assert [e.number for e in rest] == list(range(event.number + 1, final.number + 1))
        for one, other in zip(rest, (s[0] for s in stops[event.number + 1 :]), strict=True):
            assert same(one.state, other.state)
            assert one.outcome.bytes_down == other.outcome.bytes_down
            assert one.outcome.bytes_up == other.outcome.bytes_up
            assert (one.test is None) == (other.test is None)
            if one.test and other.test:
                assert torch.equal(one.test.total["correct"], other.test.total["correct"])
        assert json.dumps(again.memory()) == (stops[-1][2] if rest else memory)


@pytest.mark.parametrize(
    ("name", "options", "adapter"),
    [("lorm", {}, None), ("lorm", {"gram": "low_rank"}, None), ("fedavg", {}, FULL), ("fedit", {}, None)],
)
def test_lifting_on_either_side_gives_one_model(
    name: str, options: dict[str, Any], adapter: Adapter | None, world: Make
) -> None:
    plan = Training(epochs=1, batch_size=32, lr=3e-2, optimizer="sgd", augment=False)
    here = world(sizes=(4, 6), plan=plan, **({"adapter": adapter} if adapter else {}))
    method = here.method(name, **options)
    on_server, on_client = (tensors(here.run(method, lift_on=side)[-1].state) for side in ("server", "client"))
    assert on_server.keys() == on_client.keys()
    for key, value in on_server.items():
        assert (value - on_client[key]).abs().max() <= 1e-5 * max(1.0, value.abs().max().item()), key


def test_old_heads_and_finished_tasks_never_change(world: Make) -> None:
    here = world()
    for name in ("lorm", "fedavg"):
        ends: dict[str, Tensor] = {}
        for event in here.run(here.method(name)):
            for key, value in ends.items():
                assert torch.equal(event.state.shared[key], value), key
            if (
                event.round
                == [e for e in schedule(here.method(name), here.tasks, 0) if e[0].task == event.round.task][-1][0]
            ):
                task = event.round.task.index
                wanted = [f"head/{task}", *(k for k in event.state.shared if k.startswith(f"task/{task}/"))]
                ends |= {key: event.state.shared[key].clone() for key in wanted}
        assert len(ends) > 2


def test_a_client_without_some_class_and_a_client_without_a_task(world: Make) -> None:
    whole = world()
    labels = whole.stream.place(whole.dataset.train.labels).tolist()
    first = [i for i, label in enumerate(labels) if label != 1][::2]
    second = [i for i, label in enumerate(labels) if label < 3 and i not in first]
    third = [i for i in range(len(labels)) if i not in first and i not in second]
    for name, options in (("lorm", {}), ("lorm", {"gram": "full"}), ("fedavg", {})):
        here = world(shares={"0": first, "1": second, "2": third})
        events = here.run(here.method(name, **options))
        assert all(torch.isfinite(value).all() for value in tensors(events[-1].state).values())
        by_task = {e.round.task.index: e.outcome for e in events if e.outcome.reported}
        assert by_task[0].reported == ("0", "1", "2") or by_task[0].idle == ("2",)
        assert by_task[1].idle == by_task[2].idle == ("1",)
        assert by_task[1].reported == ("0", "2")


def test_a_sampled_cohort(world: Make) -> None:
    here = world(clients=4)
    events = here.run(here.method("lorm", sampled=2, rounds=3))
    trained = [e for e in events if e.outcome.reported and e.round.phase == "train"]
    cohorts = [e.outcome.reported for e in trained]
    assert all(len(cohort) == 2 and list(cohort) == sorted(set(cohort)) for cohort in cohorts)
    assert len(set(cohorts)) > 2
    again = here.run(here.method("lorm", sampled=2, rounds=3))
    assert [e.outcome.reported for e in events] == [e.outcome.reported for e in again]
    consolidated = [e.outcome.reported for e in events if e.round.phase == "consolidate"]
    assert set(consolidated) == {("0", "1", "2", "3")}, "a task that the last cohort has no samples of would be lost"
    many = [e.outcome.reported for e in here.run(here.method("fedit", sampled=9, rounds=1)) if e.outcome.reported]
    assert set(many) == {("0", "1", "2", "3")}


@pytest.mark.parametrize("adapter", [None, FULL])
def test_with_one_client_fedavg_is_that_clients_training(adapter: Adapter | None, world: Make) -> None:
    here = world(clients=1, sizes=(4, 6), **({"adapter": adapter} if adapter else {}))
    events = here.run(here.method("fedavg"))
    kinds = ("base",) if adapter else ("lora_A", "lora_B")
    for before, after in pairwise(events):
        if after.round.phase != "train":
            continue
        task = after.round.task
        alone = train(
            here.model,
            before.state.shared,
            (*kinds, f"head/{task.index}"),
            here.clients["0"].train(task),
            after.round,
            shared={},
            training=here.plan,
            objectives=[cross_entropy],
        )
        for key in (k for k in alone if not k.startswith("metric/")):
            assert torch.equal(after.state.shared[key], alone[key]), key


def test_fedavg_is_the_weighted_mean_of_what_clients_train(world: Make) -> None:
    here = world()
    method = here.method("fedavg")
    events = here.run(method)
    before, after = events[0], events[1]
    sums: dict[str, Tensor] = {}
    count = 0
    for party in here.clients.values():
        data = party.train(after.round.task)
        update = method.phases["train"].client_update(here.model, before.state.shared, data, after.round)
        for key in after.state.shared:
            sums[key] = sums.get(key, 0) + len(data) * update[key].double()
        count += len(data)
    assert len({len(p.train(after.round.task)) for p in here.clients.values()}) > 1  # weights matter
    assert all(torch.allclose(after.state.shared[k].double(), v / count, atol=1e-7) for k, v in sums.items())


def test_joint_training_reports_by_task_and_is_fedavg_of_one(world: Make) -> None:
    here = world(clients=1, joined=True)
    joint = here.run(here.method("joint", test_offsets=(0, 3, 5, 10)))
    plain = here.run(here.method("fedavg"))
    assert same(joint[-1].state, plain[-1].state)
    assert joint[-1].test.total["correct"].sum() == plain[-1].test.total["correct"].sum()


def test_accuracy_is_counted_with_the_predicting_weights(world: Make) -> None:
    here = world()
    method = here.method("lorm")
    event: Event = here.run(method)[-1]
    here.model.load(method.predicting(event.state.shared))
    here.model.train(False)
    correct = [0, 0, 0]
    labels = here.stream.place(here.dataset.test.labels)
    batch = next(here.evaluators["test"].test(here.tasks[-1]).batches(1000, device=torch.device("cpu")))
    with torch.no_grad():
        predicted = here.model.logits(here.model.features(batch.inputs)).argmax(1)
    for label, guess in zip(batch.labels.tolist(), predicted.tolist(), strict=True):
        correct[0 if label < 3 else 1 if label < 5 else 2] += label == guess
    assert event.test.total["correct"].tolist() == correct
    assert len(batch.labels) == len(labels) == 50


@pytest.mark.parametrize(
    ("name", "options", "adapter", "error"),
    [
        ("lorm", {}, FULL, r"does not work with adapter\.kind = 'full'; it takes lora"),
        ("lorm", {}, Adapter(rank=2, alpha=4.0), r"remove adapter\.alpha = 4"),
        ("fedavg", {}, Adapter(kind="prompt"), "it takes full or lora or vera or"),
        ("lorm", {"gram_off_diagonal": 1.5}, None, "gram_off_diagonal = 1.5"),
        ("lorm", {"head_off_diagonal": -0.1}, None, "head_off_diagonal = -0.1"),
        ("lorm", {"gram_rank": 0}, None, "gram_rank = 0"),
        ("lorm", {"gram_passes": 0}, None, "gram_passes = 0"),
        ("lorm", {"ridge": -1.0}, None, "ridge = -1"),
        ("lorm", {"ridge": float("nan")}, None, "ridge = nan"),
    ],
)
def test_settings_that_do_not_go_together(
    name: str, options: dict[str, Any], adapter: Adapter | None, error: str, world: Make
) -> None:
    here = world(sizes=(4, 6))
    here.adapter = adapter or here.adapter
    with pytest.raises(UserError, match=error):
        here.method(name, **options)


def test_evaluating_less_often_changes_no_bit_of_the_model(world: Make) -> None:
    from fedbraid.engine import run

    here = world(sizes=(4, 6))
    method = here.method("lorm")
    often = here.run(method)
    seldom = list(run(method, here.model, here.tasks, here.runtime(method), seed=0, evaluate="task"))
    assert all(same(a.state, b.state) for a, b in zip(often, seldom, strict=True))
    assert [e.number for e in seldom if e.test] == [3, 7]
    assert [e.number for e in often if e.test] == [1, 2, 3, 5, 6, 7]


def test_a_run_that_is_done_has_no_more_events(world: Make) -> None:
    here = world(sizes=(4, 6))
    method = here.method("fedit", rounds=1)
    events = here.run(method)
    assert here.run(method, start=Start(len(events), events[-1].state)) == []
    assert replace(events[-1].round) == events[-1].round
