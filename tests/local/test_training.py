"""Local training: deterministic, silent to the outside, and against a training loop of this test's own."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fedbraid.core import Data, Round, Task
from fedbraid.errors import RunError
from fedbraid.local.objectives import Step, cross_entropy
from fedbraid.local.training import Training, train
from fedbraid.models import AdaptedModel, Adapter, load_backbone

Drawn = Callable[[AdaptedModel], dict[str, Tensor]]
PLAN = Training(epochs=2, batch_size=8, lr=1e-2, augment=False)
KINDS = ("lora_B", "head/1")


def of_task(data: Data, task: Task) -> Data:
    inside = torch.tensor([label in task.classes for label in data.labels.tolist()])
    return type(data)({key: rows[inside] for key, rows in data.inputs.items()}, data.labels[inside], data.client)


def trained(
    model: AdaptedModel, values: dict[str, Tensor], data: Data, round: Round, plan: Training = PLAN, kinds=KINDS
) -> dict[str, Tensor]:
    return train(model, values, kinds, data, round, shared=values, training=plan, objectives=[cross_entropy])


@pytest.fixture
def data(images: Data, the_round: Round) -> Data:
    return of_task(images, the_round.task)


def test_the_same_round_gives_the_same_bits(tiny: AdaptedModel, data: Data, the_round: Round, drawn: Drawn) -> None:
    values = drawn(tiny)
    first = trained(tiny, values, data, the_round)
    torch.manual_seed(99)
    trained(tiny, values, data, replace(the_round, index=3))  # other work in between
    other = AdaptedModel(load_backbone("tiny"), tiny.adapter)
    for model in (tiny, other):
        again = trained(model, values, data, the_round)
        assert set(again) == set(first)
        assert all(torch.equal(again[key], first[key]) for key in first)
    later = trained(tiny, values, data, replace(the_round, index=1))
    assert any(not torch.equal(later[key], first[key]) for key in first)


def test_dropout_is_a_function_of_the_round(data: Data, the_round: Round, drawn: Drawn) -> None:
    """Whatever the model held before: making room for a second term must not draw from the round's numbers."""
    model = AdaptedModel(load_backbone("tiny"), Adapter(rank=3, blocks="0", dropout=0.5))
    values = drawn(model)
    values |= {key.replace("lora", "delta"): value for key, value in values.items() if key.startswith("lora")}
    first = trained(model, values, data, the_round)
    torch.manual_seed(4)
    again = trained(model, values, data, the_round)
    assert all(torch.equal(again[key], first[key]) for key in first)
    plain = AdaptedModel(load_backbone("tiny"), Adapter(rank=3, blocks="0"))
    assert not torch.equal(trained(plain, values, data, the_round)["head/1"], first["head/1"])


def test_the_global_generator_is_untouched(tiny: AdaptedModel, data: Data, the_round: Round, drawn: Drawn) -> None:
    values = drawn(tiny)
    before = torch.get_rng_state()
    trained(tiny, values, data, the_round)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "kinds", [("lora_B", "head/1"), ("lora_A", "head/1"), ("head/1",), ("lora_A", "lora_B", "head/1")]
)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_what_is_not_trained_keeps_its_bits(
    kinds: tuple[str, ...], decay: float, tiny: AdaptedModel, data: Data, the_round: Round, drawn: Drawn
) -> None:
    values = drawn(tiny)
    held = {key: value.clone() for key, value in values.items()}
    result = trained(tiny, values, data, the_round, replace(PLAN, weight_decay=decay), kinds)
    assert {key for key in result if not key.startswith("metric/")} == set(tiny.values(kinds))
    after = tiny.values(("lora_A", "lora_B", "head"))
    for key, value in after.items():
        changed = key in kinds or key.split("/")[0] in kinds
        assert torch.equal(value, held[key]) != changed, key
    assert all(torch.equal(values[key], held[key]) for key in values)  # nor does the caller's copy move


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_is_the_loop_that_one_would_write(optimizer: str, data: Data, the_round: Round, drawn: Drawn) -> None:
    """The head alone on frozen features: batches in the round's order, masked cross-entropy, no framework."""
    model = AdaptedModel(load_backbone("tiny"), Adapter(kind="none"))
    values = {k: v for k, v in drawn(model).items() if k.startswith("head")}
    plan = replace(PLAN, optimizer=optimizer, weight_decay=0.1, momentum=0.5, rates={"head": 0.05})
    result = trained(model, values, data, the_round, plan, ("head/1",))
    with torch.no_grad():
        features = model.features(data.inputs)
    head = values["head/1"].clone().requires_grad_()
    if optimizer == "sgd":
        steps = torch.optim.SGD([head], lr=0.05, weight_decay=0.1, momentum=0.5)
    else:
        steps = torch.optim.AdamW([head], lr=0.05, weight_decay=0.1)
    shuffle, losses = the_round.generator("shuffle", data.client), 0.0
    for _ in range(2):
        for rows in torch.randperm(len(data), generator=shuffle).split(8):
            out = features[rows] @ head[:, :-1].T + head[:, -1]
            loss = nn.functional.cross_entropy(out, data.labels[rows] - 2)  # logits of the task's classes alone
            steps.zero_grad()
            loss.backward()
            steps.step()
            losses += loss.item() * len(rows)
    assert torch.allclose(result["head/1"], head, atol=1e-5)
    assert result["metric/samples"].item() == 2 * len(data)
    assert result["metric/loss"].item() == pytest.approx(losses, rel=1e-5)
    assert set(result) == {"head/1", "metric/loss", "metric/samples"}


def test_rates_are_by_kind(tiny: AdaptedModel, data: Data, the_round: Round, drawn: Drawn) -> None:
    values = drawn(tiny)
    plan = replace(PLAN, optimizer="sgd", rates={"lora_B": 0.0})
    result = trained(tiny, values, data, the_round, plan)
    assert all(torch.equal(result[key], values[key]) for key in result if key.startswith("lora_B"))
    assert not torch.equal(result["head/1"], values["head/1"])


def test_training_lowers_the_loss(tiny: AdaptedModel, data: Data, the_round: Round, drawn: Drawn) -> None:
    one = trained(tiny, drawn(tiny), data, the_round, replace(PLAN, epochs=1))
    many = trained(tiny, drawn(tiny), data, the_round, replace(PLAN, epochs=12))
    mean = [r["metric/loss"].item() / r["metric/samples"].item() for r in (one, many)]
    assert mean[1] < mean[0]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_loss_that_is_not_finite_names_client_and_round(
    optimizer: str, epochs: int, tiny: AdaptedModel, data: Data, the_round: Round, drawn: Drawn
) -> None:
    plan = replace(PLAN, optimizer=optimizer, lr=1e30, epochs=epochs)
    with pytest.raises(RunError, match=r"client 7 became .* in task 1, train round 0, step \d+.*lr 1e\+30"):
        trained(tiny, drawn(tiny), data, the_round, plan)


def test_values_that_are_not_finite_after_the_last_step_are_no_result(
    tiny: AdaptedModel, data: Data, the_round: Round, drawn: Drawn
) -> None:
    """One step: its loss is finite, what it leaves is not."""
    plan = replace(PLAN, optimizer="sgd", lr=1e38, epochs=1, batch_size=100)
    values = drawn(tiny) | {"head/1": torch.full((2, tiny.width + 1), 0.1) * torch.tensor([[1e3], [-1e3]])}
    with pytest.raises(RunError, match=r"client 7.*task 1, train round 0"):
        trained(tiny, values, data, the_round, plan)


def test_cross_entropy_is_over_the_classes_of_the_task(the_round: Round, tiny: AdaptedModel, data: Data) -> None:
    from fedbraid.core import Batch

    out = torch.tensor([[9.0, 9.0, 1.0, 2.0], [9.0, -9.0, 0.0, 3.0]], requires_grad=True)
    step = Step(tiny, {}, {}, the_round, data, Batch({}, torch.tensor([2, 3])), torch.zeros(2, 1), out)
    loss = cross_entropy(step)
    expected = (-math.log(math.exp(1) / (math.exp(1) + math.exp(2))) - math.log(math.exp(3) / (1 + math.exp(3)))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert torch.equal(out.grad[:, :2], torch.zeros(2, 2))


def test_bf16_training_gives_fp32_values_near_those_of_fp32(
    tiny: AdaptedModel, data: Data, the_round: Round, drawn: Drawn
) -> None:
    values = drawn(tiny)
    full = trained(tiny, values, data, the_round, replace(PLAN, optimizer="sgd"))
    lower = AdaptedModel(load_backbone("tiny"), tiny.adapter, precision="bf16")
    half = trained(lower, values, data, the_round, replace(PLAN, optimizer="sgd"))
    assert not torch.equal(half["head/1"], full["head/1"])
    assert lower.features(next(data.batches(4, device=lower.device)).inputs).dtype == torch.float32
    for key in ("head/1", *(k for k in full if k.startswith("lora_B"))):
        assert half[key].dtype == torch.float32
        assert torch.linalg.norm(half[key] - full[key]) <= 0.1 * torch.linalg.norm(full[key] - values[key]) + 1e-6


def test_texts_train_too(bert: Path, texts: Data, drawn: Drawn) -> None:
    model = AdaptedModel(load_backbone(str(bert)), Adapter(rank=2, layers="qkv"))
    round = Round(Task(0, (0, 4)), "train", 1, 0)
    head = {"head/0": torch.zeros(4, 33)}
    values = model.fresh(torch.Generator().manual_seed(0)) | head
    result = trained(model, values, texts, round, replace(PLAN, epochs=5), ("lora_B", "head/0"))
    assert not torch.equal(result["head/0"], head["head/0"])
    assert any(value.abs().max() > 0 for key, value in result.items() if key.startswith("lora_B"))


def test_every_use_of_randomness_has_a_seed_of_its_own() -> None:
    task = Task(0, (0, 2, 4))
    rounds = [Round(t, p, i, s) for t in (task, Task(1, (0, 2, 4))) for p in "ab" for i in (0, 1) for s in (0, 1)]
    seeds = [r.derive(use, client) for r in rounds for use in ("train", "shuffle") for client in ("1", "11", "")]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
