"""The exam of a language model: what is counted of the answers it writes, and what it learns to write."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from fedbraid.algebra import Statistic
from fedbraid.core import Round
from fedbraid.data import load
from fedbraid.errors import UserError
from fedbraid.evaluation import scores
from fedbraid.local.generation import Written
from fedbraid.local.objectives import NextToken, Step
from fedbraid.local.training import Training, train
from fedbraid.models import AdaptedModel, Adapter, LanguageModel, load_backbone, load_causal
from fedbraid.models.language import next_tokens
from fedbraid.testing import language_world, random_llama

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return language_world(random_llama(tmp_path_factory.mktemp("llama")))


@pytest.fixture
def model(world):
    return world.model(Adapter(rank=2))


class Saying(LanguageModel):
    """A language model that says what it is told to, by the number of tokens of the prompt."""

    def write(self, prompts, *, max_new_tokens, beams=1):
        self.asked = [*getattr(self, "asked", []), [len(prompt) for prompt in prompts]]
        return [f"said {len(prompt)}" for prompt in prompts]


def test_answers_are_counted_by_group_and_told_apart_by_category(world, monkeypatch):
    model = world.model(Adapter(rank=2))
    data = world.evaluators["test"].test(world.tasks[-1])
    right = [answers[0] for batch in data.batches(9, device=CPU) for answers in batch.answers]
    wrong = {3, 5, 17}  # two of the second category, one of the last
    said = ["no" if place in wrong else answer for place, answer in enumerate(right)]
    monkeypatch.setattr(Written, "_written", lambda self, model, prompts: said)
    exam = Written(categories=tuple("abcdef"), batch_size=4)
    found = exam(model, {}, data, offsets=world.stream.offsets)
    assert (found["correct"].tolist(), found["total"].tolist()) == ([4, 3, 8], [6, 3, 9])
    told = scores(Statistic(found))
    assert told["accuracy/b"] == pytest.approx(1 / 3)
    assert told["accuracy/a"] == told["accuracy/c"] == 1
    assert told["perplexity"] == pytest.approx(math.exp(told["loss"]))


def test_prompts_are_written_to_longest_first_and_told_in_their_order(world):
    model = Saying(load_causal(world.backbone), Adapter(rank=2))
    data = world.evaluators["test"].test(world.tasks[0])
    prompts = [list(range(n)) for n in (3, 1, 2, 5, 4)]
    assert Written(batch_size=2)._written(model, prompts) == [f"said {n}" for n in (3, 1, 2, 5, 4)]
    assert model.asked == [[5, 4], [3, 2], [1]]
    Written(batch_size=2)(model, {}, data, offsets=(0, 2))
    lengths = [n for part in model.asked[3:] for n in part]
    assert lengths == sorted(lengths, reverse=True)


def test_what_is_asked_is_the_prompt_alone(world):
    data = world.clients["c"].train(world.tasks[0])
    batch = next(data.batches(4, device=CPU))
    from fedbraid.local.generation import _prompts

    for row, prompt in enumerate(_prompts(batch)):
        told = batch.inputs["labels"][row]
        answer = told[told != -100].tolist()
        assert batch.inputs["input_ids"][row].tolist()[: len(prompt) + len(answer)] == prompt + answer


def test_the_loss_is_the_mean_over_all_tokens_whatever_the_batches(world, model):
    data = world.evaluators["test"].test(world.tasks[-1])
    told = [
        scores(Statistic(Written(max_new_tokens=1, batch_size=size)(model, {}, data, offsets=(0, 6))))["loss"]
        for size in (1, 5, 18)
    ]
    assert told == pytest.approx([told[0]] * 3, abs=1e-5)


def test_scores_of_two_clients_are_weighted_by_their_samples(world, model):
    exam = Written(max_new_tokens=1, scores=("rouge_l",))
    shares = [world.evaluators["test"].test(task) for task in (world.tasks[0], world.tasks[2])]
    parts = [exam(model, {}, share, offsets=(0, 6)) for share in shares]
    total = Statistic(parts[0]) + Statistic(parts[1])
    told = scores(total)
    assert total["tokens"] == parts[0]["tokens"] + parts[1]["tokens"]
    losses = [scores(Statistic(part))["loss"] for part in parts]
    assert told["loss"] == pytest.approx((6 * losses[0] + 18 * losses[1]) / 24)
    assert "rouge_l" in told


def test_only_a_language_model_writes(world):
    data = world.evaluators["test"].test(world.tasks[0])
    with pytest.raises(UserError, match="not by a AdaptedModel"):
        Written()(AdaptedModel(load_backbone("tiny"), Adapter(rank=2, blocks="0")), {}, data, offsets=(0, 2))


def step_of(world, model):
    batch = next(world.clients["c"].train(world.tasks[0]).batches(4, device=CPU))
    features = model.features(batch.inputs)
    data, the_round = world.clients["c"].train(world.tasks[0]), Round(world.tasks[0], "train", 0, 0)
    return Step(model, {}, {}, the_round, data, batch, features, model.logits(features))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_objective_is_the_mean_over_the_answers_tokens(world, model, smoothing):
    model.load({})
    step = step_of(world, model)
    right, logs = next_tokens(step.batch.inputs), step.logits.double().log_softmax(1)
    expected = -(1 - smoothing) * logs[range(len(right)), right].mean() - smoothing * logs.mean()
    assert torch.allclose(NextToken(smoothing)(step).double(), expected, atol=1e-6)
    half = replace(step, logits=step.logits.bfloat16())
    assert NextToken(smoothing)(half).dtype == torch.float32
    assert torch.allclose(NextToken()(step), F.cross_entropy(step.logits, right))


def test_a_model_that_is_trained_writes_the_right_answers(tmp_path):
    world = language_world(random_llama(tmp_path), joined=True)
    model = world.model(Adapter("full"))
    data, task = world.clients["a"].train(world.tasks[0]), world.tasks[0]
    plan = Training(epochs=80, batch_size=16, lr=3e-3, augment=False)
    first = model.fresh(torch.Generator())
    trained = train(
        model, first, ["base"], data, Round(task, "train", 0, 0), shared=first, training=plan, objectives=(NextToken(),)
    )
    weights = {key: value for key, value in trained.items() if key.startswith("base/")}
    exam = Written(max_new_tokens=6, categories=tuple("abcdef"))
    found = exam(model, weights, world.evaluators["test"].test(task), offsets=task.offsets)
    assert found["correct"].sum() / found["total"].sum() > 0.5  # one in six by chance; 0.7 to 0.8 over seeds
    before = exam(model, first, world.evaluators["test"].test(task), offsets=task.offsets)
    assert scores(Statistic(found))["loss"] < 0.5 * scores(Statistic(before))["loss"]
    assert before["correct"].sum() == 0


def test_data_sets_name_what_they_are_measured_by(tmp_path):
    from published_prompts import e2e

    e2e(tmp_path)
    data = load("e2e", path=tmp_path, scores=["rouge_l", "loss"])
    assert data.scores == ("rouge_l", "loss")
