"""One round of each method against a recomputation from what its clients train: own loops, own loss terms, numpy."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fedbraid.algebra import Tensors, select, without
from fedbraid.core import Event, Method, Round, State
from fedbraid.local.fisher import measure_fisher
from fedbraid.local.objectives import Step, cross_entropy
from fedbraid.local.training import Training, train
from fedbraid.models import Adapter, load_backbone
from fedbraid.runtimes.delivery import Delivery

World = Any
Make = Callable[..., World]
FULL, NONE = Adapter(kind="full"), Adapter(kind="none")
LORA = Adapter(rank=2, blocks="0", layers=("q_proj", "fc1"))
SGD = Training(epochs=3, batch_size=16, lr=0.05, optimizer="sgd", augment=False)
TWO = {"sizes": (4, 6), "adapter": LORA}


def rounds(events: list[Event], phase: str, task: int | None = None) -> list[tuple[State, Event]]:
    """(the state before, the event) of every round of the phase."""
    found = [(a.state, b) for a, b in pairwise(events) if b.round.phase == phase]
    return [pair for pair in found if task is None or pair[1].round.task.index == task]


def updates(here: World, method: Method, before: State, round: Round) -> list[dict[str, Tensor]]:
    """What every client sends in this round, in the order of the clients."""
    phase = method.phases[round.phase]
    parties = [here.clients[client].train(round.task) for client in sorted(here.clients)]
    return [dict(phase.client_update(here.model, before.shared, data, round)) for data in parties]


def weighted(found: list[dict[str, Tensor]], key: str) -> Tensor:
    """The mean of a value, weighted by counts."""
    return sum(u["count"] * u[key].double() for u in found) / sum(u["count"] for u in found)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-6) -> bool:
    return bool((a.double() - b.double()).abs().max() <= tolerance * max(1.0, b.abs().max().item()))


def plain(values: Mapping[str, Tensor], pixels: Tensor, layer: str = "features") -> Tensor:
    """What the layer reads, (tokens, d_in), or the features: on a backbone without peft, of dense weights."""
    backbone = load_backbone("tiny")
    own = dict(backbone.module.named_parameters())
    seen: list[Tensor] = []
    with torch.no_grad():
        for name, value in select(values, "base").items():
            own[name].copy_(value)
        for name, b in select(values, "lora_B").items():
            own[f"{name}.weight"] += b @ values[f"lora_A/{name}"]
        if layer != "features":
            module = backbone.module.get_submodule(layer)
            module.register_forward_hook(lambda _m, args, _out: seen.append(args[0].flatten(0, -2).double()))
        features = backbone.pool(backbone.module, {"pixel_values": pixels})
    return seen[0] if seen else features.double()


def trained(here: World, before: State, round: Round, client: str, kinds: tuple[str, ...], *terms: Any) -> Tensors:
    """A client's training on cross-entropy and the test's own terms, from what is shared."""
    weights = {k: v for k, v in before.shared.items() if k.split("/")[0] in ("lora_A", "lora_B", "base", "head")}
    objectives = [cross_entropy, *terms]
    data = here.clients[client].train(round.task)
    options = {"shared": {}, "training": here.plan, "objectives": objectives}
    return without(train(here.model, weights, (*kinds, f"head/{round.task.index}"), data, round, **options), "metric")


# --- averaging ----------------------------------------------------------------------------------------------------


def test_fedprox_is_the_mean_of_proximal_steps(world: Make) -> None:
    """Heads on frozen features, by a loop of this test's own with the gradient `CE' + mu (w - w0)`."""
    here = world(sizes=(4, 6), adapter=NONE, plan=SGD)
    events = here.run(here.method("fedprox", rounds=1, mu=3.0))
    for before, after in rounds(events, "train"):
        key, classes = f"head/{after.round.task.index}", after.round.task.classes
        found = []
        for client, party in here.clients.items():
            data = party.train(after.round.task)
            x = F.pad(plain({}, here.pixels(after.round.task, client)), (0, 1), value=1.0)
            hot = F.one_hot(data.labels[data.indices] - classes.start, len(classes)).double()
            w0 = before.shared[key].double()
            w, shuffle = w0.clone(), after.round.generator("shuffle", client)
            for _ in range(SGD.epochs):
                for rows in torch.randperm(len(data), generator=shuffle).split(SGD.batch_size):
                    ce = ((x[rows] @ w.T).softmax(1) - hot[rows]).T @ x[rows] / len(rows)
                    w = w - SGD.lr * (ce + 3.0 * (w - w0))
            found.append({"count": torch.tensor(len(data)), key: w})
        assert close(after.state.shared[key], weighted(found, key), 1e-5)


@pytest.mark.parametrize("adapter", [LORA, FULL], ids=["lora", "full"])
def test_a_strong_pull_keeps_fedprox_at_what_it_received(adapter: Adapter, world: Make) -> None:
    """With mu = 1 / lr every step starts from the received model; without, all steps add up."""
    here = world(sizes=(4, 6), adapter=adapter, plan=replace(SGD, lr=1e-3, epochs=5))
    moved = []
    for mu in (1000.0, 0.0):
        before, after = rounds(here.run(here.method("fedprox", rounds=1, mu=mu)), "train")[0]
        change = [(after.state.shared[k] - v).square().sum() for k, v in before.shared.items()]
        moved.append(sum(change).sqrt().item())
    assert 0 < moved[0] < 0.35 * moved[1]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ewc", {"strength": 0.0}),
        ("fedprox", {"mu": 0.0}),
        ("lwf", {"weight": 0.0}),
        ("fedproto", {"weight": 0.0}),
        ("fedit", {}),
        ("ccvr", {"lr": 1e-30, "samples": 2}),
        ("derpp", {"alpha": 0.0, "beta": 0.0}),
    ],
)
def test_without_its_term_a_method_is_fedavg_bit_for_bit(name: str, options: dict[str, float], world: Make) -> None:
    here = world(**TWO)
    one, other = (here.run(method) for method in (here.method(name, **options), here.method("fedavg")))
    for (_, a), (_, b) in zip(rounds(one, "train"), rounds(other, "train"), strict=True):
        assert all(torch.equal(a.state.shared[key], value) for key, value in b.state.shared.items())


def test_ffa_lora_averages_updates_exactly(world: Make) -> None:
    here = world(**TWO, plan=SGD)
    method = here.method("ffa_lora")
    events = here.run(method)
    first = events[0].state.shared
    for before, after in rounds(events, "train"):
        found = updates(here, method, before, after.round)
        assert not [key for update in found for key in update if key.startswith("lora_A/")]
        for layer in here.model.layers:
            a, b = after.state.shared[f"lora_A/{layer}"].double(), after.state.shared[f"lora_B/{layer}"]
            assert torch.equal(a, first[f"lora_A/{layer}"].double())
            products = [{"count": u["count"], "x": u[f"lora_B/{layer}"].double() @ a} for u in found]
            assert close(b.double() @ a, weighted(products, "x"))
            assert b.any()


@pytest.mark.parametrize("keep", [1.0, 0.3])
def test_ties_by_entry(keep: float, world: Make) -> None:
    """Trim over all of a client's changes, elect, merge; where nothing was trimmed and signs agree it is the mean."""
    here = world(**TWO, plan=SGD)
    method = here.method("ties", keep=keep)
    for before, after in rounds(here.run(method), "train"):
        found = updates(here, method, before, after.round)
        head = f"head/{after.round.task.index}"
        assert close(after.state.shared[head] - before.shared[head], weighted(found, head))
        keys = [key for key in before.shared if key.startswith("lora")]
        flat = np.array([torch.cat([u[key].flatten() for key in keys]).double().tolist() for u in found])
        counts = np.array([u["count"].item() for u in found])[:, None]
        for row in flat:
            row[np.argsort(np.abs(row), kind="stable")[: round((1 - keep) * len(row))]] = 0
        elected = np.sign((counts * flat).sum(0))
        agree = (np.sign(flat) == elected) & (flat != 0)
        expected = (counts * flat * agree).sum(0) / np.maximum((counts * agree).sum(0), 1)
        change = torch.cat([(after.state.shared[k].double() - before.shared[k].double()).flatten() for k in keys])
        assert close(change, torch.from_numpy(expected))
        if keep == 1.0:
            mean = (counts * flat).sum(0) / counts.sum()
            alike = agree.all(0)
            assert alike.any()
            assert np.allclose(change.numpy()[alike], mean[alike], atol=1e-6)


# --- closed forms -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [LORA, FULL, NONE], ids=["lora", "full", "none"])
@pytest.mark.parametrize(("name", "options"), [("fisheravg", {}), ("regmean", {"off_diagonal": 1.0})])
def test_one_client_is_the_identity(name: str, options: dict[str, float], adapter: Adapter, world: Make) -> None:
    here = world(clients=1, sizes=(4, 6), adapter=adapter)
    method = here.method(name, rounds=1, **options)
    before, after = rounds(here.run(method), "train")[0]
    (own,) = updates(here, method, before, after.round)
    keys = [key for key in own if key in after.state.shared]
    assert f"head/{after.round.task.index}" in keys
    assert all(close(after.state.shared[key], own[key], 1e-4) for key in keys)


def test_fisheravg_weights_entries_by_the_clients_fishers(world: Make) -> None:
    here = world(**TWO)
    method = here.method("fisheravg", rounds=1, floor=1e-2)
    for before, after in rounds(here.run(method), "train"):
        found = updates(here, method, before, after.round)
        keys = [key for key in before.shared if key in found[0]]
        assert len(keys) == 5
        for key in keys:
            w, f = (np.stack([u[k].double().numpy() for u in found]) for k in (key, f"fisher/{key}"))
            lam = 1e-2 * f.sum(0).mean()
            expected = ((f * w).sum(0) + lam * weighted(found, key).numpy()) / (f.sum(0) + lam)
            assert close(after.state.shared[key], torch.from_numpy(expected))
        model = {**before.shared, **{key: found[0][key] for key in keys}}  # the client's own, whose answers are labels
        data, options = here.clients["0"].train(after.round.task), {"samples": 256, "labels": "model"}
        fisher = measure_fisher(here.model, model, keys, data, after.round, **options)
        assert all(torch.equal(found[0][key], value) for key, value in fisher.items())


def least_squares(values: list[Tensor], inputs: list[Tensor], prior: Tensor, ridge: float) -> Tensor:
    """`argmin sum_i |W X_i - W_i X_i|^2 + lam |W - prior|^2` with samples in rows, `lam` relative."""
    x, d = torch.cat(inputs), prior.shape[1]
    lam = ridge * x.square().sum().item() / d
    rows = np.vstack([x.numpy(), np.sqrt(lam) * np.eye(d)])
    answers = torch.cat([part @ value.double().T for value, part in zip(values, inputs, strict=True)])
    right = np.vstack([answers.numpy(), np.sqrt(lam) * prior.T.numpy()])
    return torch.from_numpy(np.linalg.lstsq(rows, right, rcond=None)[0].T)


@pytest.mark.parametrize("adapter", [LORA, FULL], ids=["lora", "full"])
def test_regmean_is_stacked_least_squares_on_recorded_inputs(adapter: Adapter, world: Make) -> None:
    """Layer by layer on every client's own trained model; B reads what the client's own A makes of the inputs."""
    here = world(sizes=(4, 6), adapter=adapter)
    method = here.method("regmean", rounds=1, off_diagonal=1.0, ridge=1e-2)
    before, after = rounds(here.run(method), "train", task=1)[0]
    found = updates(here, method, before, after.round)
    pixels = [here.pixels(after.round.task, client) for client in sorted(here.clients)]

    def inputs(layer: str) -> list[Tensor]:
        return [plain({**before.shared, **u}, images, layer) for u, images in zip(found, pixels, strict=True)]

    layer = "layers.0.mlp.fc1"
    x, f = inputs(layer), [F.pad(features, (0, 1), value=1.0) for features in inputs("features")]
    wanted = {"head/1": f}
    if adapter.kind == "full":
        wanted[f"base/{layer}.weight"] = x
    else:
        first = [u[f"lora_A/{layer}"].double() for u in found]
        wanted |= {f"lora_A/{layer}": x, f"lora_B/{layer}": [part @ a.T for part, a in zip(x, first, strict=True)]}
    for key, read in wanted.items():
        mean = weighted(found, key)
        expected = least_squares([u[key] for u in found], read, mean, 1e-2)
        error = torch.linalg.norm(after.state.shared[key] - expected) / torch.linalg.norm(expected - mean)
        assert error < 1e-2, key
    for key in (k for k in before.shared if k.endswith("bias")):
        assert close(after.state.shared[key], weighted(found, key))


# --- regularisation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [256, 5])
def test_ewc_sums_fishers_and_lets_them_decay(samples: int, world: Make) -> None:
    here = world(adapter=LORA)
    method = here.method("ewc", rounds=1, gamma=0.5, samples=samples)
    running: dict[str, Tensor] = {}
    for before, after in rounds(here.run(method), "fisher"):
        found = updates(here, method, before, after.round)
        sizes = [len(party.train(after.round.task)) for party in here.clients.values()]
        assert sum(u["count"] for u in found) == sum(sizes)
        for key in (k for k in found[0] if k.startswith("fisher/")):
            running[key] = 0.5 * running.get(key, 0) + sum(u[key] for u in found) / sum(sizes)
            assert torch.allclose(after.state.shared[key].double(), running[key], rtol=1e-5), key
            value = key.removeprefix("fisher/")
            assert torch.equal(after.state.shared[f"anchor/{value}"], before.shared[value])
    held = [key for key in after.state.shared if key.startswith(("anchor/", "fisher/"))]
    assert len(held) == 2 * 4
    assert not [key for key in held if "head" in key]


def test_ewc_trains_with_its_penalty_after_the_first_task(world: Make) -> None:
    here = world(**TWO)
    method = here.method("ewc", strength=50.0)
    before, after = rounds(here.run(method), "train", task=1)[1]

    def penalty(step: Step) -> Tensor:
        shared, w = before.shared, step.parameters
        parts = [shared[f"fisher/{k}"] * (w[k] - shared[f"anchor/{k}"]) ** 2 for k in w if not k.startswith("head/")]
        return 25.0 * sum(part.sum() for part in parts)

    for client, update in zip(sorted(here.clients), updates(here, method, before, after.round), strict=True):
        own = trained(here, before, after.round, client, ("lora_A", "lora_B"), penalty)
        assert all(close(update[key], value) for key, value in own.items())
        free = trained(here, before, after.round, client, ("lora_A", "lora_B"))
        assert any(not close(update[key], value) for key, value in free.items())


def test_lwf_learns_from_the_model_at_the_end_of_the_last_task(world: Make) -> None:
    here = world(adapter=LORA, plan=SGD)
    method = here.method("lwf")
    events = here.run(method)
    for task in (1, 2):
        end = [event for event in events if event.round.task.index == task - 1][-1]
        for before, after in rounds(events, "train", task):
            teacher = select(before.shared, "teacher")
            kept = without(end.state.shared, "teacher")
            assert teacher.keys() == kept.keys()
            assert all(torch.equal(teacher[key], kept[key]) for key in kept)
            assert not torch.equal(after.state.shared["head/0"], before.shared["head/0"])  # follows the features
    before, after = rounds(events, "train", 2)[1]
    other = here.fresh_model()
    other.load(select(before.shared, "teacher"))
    other.train(False)

    def distilled(step: Step) -> Tensor:
        with torch.no_grad():
            z = other.logits(other.features(step.batch.inputs))
        assert z.shape[1] == 5
        return 0.5 * 4 * F.kl_div((step.logits[:, :5] / 2).log_softmax(1), (z / 2).softmax(1), reduction="batchmean")

    client = sorted(here.clients)[0]
    own = trained(here, before, after.round, client, ("lora_A", "lora_B", "head"), distilled)
    assert {key for key in own if key.startswith("head/")} == {"head/0", "head/1", "head/2"}
    update = updates(here, method, before, after.round)[0]
    assert all(close(update[key], value, 1e-5) for key, value in own.items())
    free = trained(here, before, after.round, client, ("lora_A", "lora_B", "head"))
    assert any(not close(update[key], value, 1e-5) for key, value in free.items())


def test_lwfs_teacher_is_not_sent_again(world: Make) -> None:
    """What a client is sent with the teacher among the shared values is as many numbers as without it."""
    here = world(adapter=LORA)
    with_teacher, without_it = Delivery(), Delivery()
    found = rounds(here.run(here.method("lwf")), "train")
    assert any(key.startswith("teacher/") for before, _ in found for key in before.shared)
    for before, _ in found:
        sizes = []
        for delivery, shared in ((with_teacher, before.shared), (without_it, without(before.shared, "teacher"))):
            delivery.publish(shared)
            sizes.append(sum(shared[key].numel() for key in delivery.news("0").send))
        assert sizes[0] == sizes[1] > 0


def test_fedproto_prototypes_are_pooled_means_of_the_clients_own_models(world: Make) -> None:
    here = world(**TWO)
    method = here.method("fedproto", weight=2.0)
    for before, after in rounds(here.run(method), "train"):
        task, round = after.round.task, after.round
        found = updates(here, method, before, round)
        features, labels = [], []
        for client, update in zip(sorted(here.clients), found, strict=True):
            features.append(plain(update, here.pixels(task, client)))
            data = here.clients[client].train(task)
            labels.append(data.labels[data.indices])
        f, y = torch.cat(features), torch.cat(labels)
        means = torch.stack([f[y == c].mean(0) for c in task.classes])
        assert close(after.state.shared[f"prototype/{task.index}"], means, 1e-5)
        assert [k for k in after.state.shared if k.startswith("prototype/")] == [f"prototype/{task.index}"]

        def pulled(step: Step, before: State = before, round: Round = round) -> Tensor:
            if round.index == 0:
                return step.logits.new_zeros(())
            prototypes, y = before.shared[f"prototype/{round.task.index}"], step.batch.labels
            distances = [
                F.mse_loss(step.features[y == c].mean(0), prototype)
                for c, prototype in zip(round.task.classes, prototypes, strict=True)
                if (y == c).any()
            ]
            return 2.0 * torch.stack(distances).mean()

        own = trained(here, before, round, "0", ("lora_A", "lora_B"), pulled)
        assert all(close(found[0][key], value, 1e-5) for key, value in own.items())


def test_fedproto_keeps_the_prototype_of_a_class_that_the_cohort_lacks(world: Make) -> None:
    labels = world().stream.place(world().dataset.train.labels).tolist()
    shares = {"0": [i for i, c in enumerate(labels) if c % 2], "1": [i for i, c in enumerate(labels) if not c % 2]}
    here = world(**TWO, shares=shares)
    found = rounds(here.run(here.method("fedproto", sampled=1, rounds=5)), "train")
    for before, after in found:
        task, (client,) = after.round.task.index, after.outcome.reported
        known, prototypes = (after.state.shared[f"{name}/{task}"] for name in ("prototype_known", "prototype"))
        lacked = [place for place, c in enumerate(after.round.task.classes) if c % 2 == int(client)]
        if after.round.index == 0:
            assert not known[lacked].any()
        else:
            assert torch.equal(known[lacked], before.shared[f"prototype_known/{task}"][lacked])
            assert torch.equal(prototypes[lacked], before.shared[f"prototype/{task}"][lacked])
    assert any(len({e.outcome.reported for _, e in found if e.round.task.index == task}) == 2 for task in (0, 1))
