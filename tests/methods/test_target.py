"""TARGET: the generator learns, the images and answers are what they claim, the distillation is a KL."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedbraid.core import ImageInput, Round, State, Task
from fedbraid.data import prepare
from fedbraid.errors import RunError, UserError
from fedbraid.local.objectives import Step
from fedbraid.methods import Setting, make
from fedbraid.methods.base import model_values
from fedbraid.methods.target import TARGET
from fedbraid.methods.target_synthesis import Synthesis, _disagreement, _spread, answers, inputs, synthesise
from fedbraid.models import AdaptedModel, Adapter, load_backbone
from fedbraid.models.generator import Generator
from fedbraid.testing.worlds import random_bert

World = Any
Make = Callable[..., World]
SMALL: dict[str, Any] = {"steps": 3, "generator_batch": 8, "images": 4, "batch": 6}
PLAN = Synthesis(steps=40, batch=24, lr=2e-3, adversarial=1.0, diversity=1.0, variation=0.05, magnitude=0.1)


@pytest.fixture(scope="module")
def trained(world: Make) -> tuple[World, State]:
    """A world and its state at the end of TARGET."""
    here = world(sizes=(3, 3, 4))
    return here, here.run(here.method("target", **SMALL))[-1].state


@pytest.mark.parametrize("size", [3, 8, 16, 17, 30, 32, 96])
def test_the_generator_makes_images_of_any_side_each_for_itself(size: int) -> None:
    torch.manual_seed(0)
    generator = Generator(3, size=size, channels=3)
    noise, classes = torch.randn(4, generator.noise), torch.tensor([0, 1, 2, 0])
    images = generator(noise, classes)
    assert images.shape == (4, 3, size, size)
    assert (images >= 0).all()
    assert (images <= 1).all()
    assert torch.allclose(generator(noise[1:2], classes[1:2]), images[1:2], atol=1e-5)
    assert not torch.allclose(generator(noise[:1], classes[1:2]), images[:1], atol=1e-3)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in generator.modules())


def test_the_generator_learns_what_the_model_calls_a_class(world: Make) -> None:
    here = world(sizes=(5, 5))
    state = here.run(here.method("fedavg"))[2].state
    here.model.load(model_values(state.shared))
    here.model.train(False)
    round, spec = Round(here.tasks[0], "start", 0, 0), here.model.input
    wanted = torch.arange(5).repeat_interleave(8)
    images = synthesise(here.model, spec, range(5), round, images=8, plan=PLAN)
    right = answers(here.model, images, spec).argmax(1) == wanted
    assert right.double().mean() > 0.6  # chance is 0.2
    of_one_class = images[wanted == 0].double() / 255
    assert of_one_class.std(0).mean() > 0.02  # and not one image eight times


def test_synthesis_leaves_everything_as_it_was_and_repeats_itself(trained: tuple[World, State]) -> None:
    here, state = trained
    model, kinds = here.fresh_model(), ("lora_A", "lora_B", "head")
    model.load(model_values(state.shared))
    model.parameters(("lora_A", "head"))
    values, generator = model.values(kinds), torch.get_rng_state()
    weights = {key: value.clone() for key, value in model.backbone.module.state_dict().items()}
    start = here.method("target", **SMALL).phases["start"].server_update
    round = Round(Task(3, (0, 3, 6, 10, 11)), "start", 0, 0)
    with torch.no_grad():
        first = start(model, state, {}, round)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, values[key]) for key, value in model.values(kinds).items())
    assert all(torch.equal(value, weights[key]) for key, value in model.backbone.module.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in model.backbone.module.parameters())
    torch.manual_seed(9)
    again = start(model, state, {}, round)
    assert all(torch.equal(value, again.shared[key]) for key, value in first.shared.items())
    other = start(model, state, {}, Round(round.task, "start", 0, 1))
    assert not torch.equal(other.shared["synthetic/images/2"], first.shared["synthetic/images/2"])


def test_images_are_of_the_backbones_size_and_the_answers_are_the_models(world: Make) -> None:
    here = world(sizes=(3, 3, 4))
    events = here.run(here.method("target", **SMALL))
    starts = [event for event in events if event.round.phase == "start"]
    assert not any(key.startswith("synthetic") for key in starts[0].state.shared)
    for index, before in ((1, 2), (2, 5)):
        shared, model = starts[index].state.shared, events[before].state.shared
        here.model.load(model_values(model))
        here.model.train(False)
        for task in range(index):
            images = shared[f"synthetic/images/{task}"]
            assert images.shape == (4 * (3, 3)[task], 1, 16, 16)
            assert images.dtype == torch.uint8
            with torch.no_grad():
                z = here.model.logits(here.model.features({"pixel_values": prepare(images, here.model.input)}))
            assert z.shape[1] == (0, 3, 6)[index]
            assert torch.allclose(shared[f"synthetic/logits/{task}"], z, atol=1e-5)


def test_every_image_travels_once(world: Make) -> None:
    here = world(sizes=(3, 3, 4))
    method = here.method("target", **{**SMALL, "images": 100})
    events = [event for event in here.run(method) if event.outcome.reported]
    sizes = {(event.round.task.index, event.round.index): event.outcome.bytes_down["0"] for event in events}
    images = 300 * 16 * 16
    first, last = events[2].state.shared, events[-1].state.shared
    assert torch.equal(first["synthetic/images/0"], last["synthetic/images/0"])
    for task in (1, 2):
        assert images < sizes[task, 0] - sizes[0, 0] < 1.5 * images
        assert sizes[task, 1] < sizes[0, 1] + images / 2


def test_stored_images_reach_the_backbone_like_any_other() -> None:
    draws = torch.Generator().manual_seed(0)
    spec = ImageInput(9, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "x")
    images = torch.randint(256, (5, 3, 9, 9), dtype=torch.uint8, generator=draws)
    assert torch.equal(inputs(images / 255, spec)["x"], prepare(images, spec))


def step_of(world: World, state: State, task: int) -> Step:
    """A client's first step in that task, on the model of this state."""
    world.model.load(model_values(state.shared))
    world.model.train(False)
    data = world.clients["0"].train(world.tasks[task])
    batch = next(data.batches(4, device=torch.device("cpu")))
    features = world.model.features(batch.inputs)
    round = Round(world.tasks[task], "train", 0, 0)
    return Step(world.model, {}, state.shared, round, data, batch, features, world.model.logits(features))


def test_the_objective_is_the_divergence_from_the_stored_answers(trained: tuple[World, State]) -> None:
    here, state = trained
    options = TARGET(weight=3.0, temperature=1.5, batch=50)
    torch.manual_seed(4)
    value = options._rehearse(step_of(here, state, 2))
    torch.manual_seed(4)
    drawn = torch.randint(24, (50,))
    images, taught = (
        torch.cat([state.shared[f"synthetic/{kind}/{task}"] for task in (0, 1)])[drawn] for kind in ("images", "logits")
    )
    z = here.model.logits(here.model.features({"pixel_values": prepare(images, here.model.input)}))[:, :6]
    p, q = (torch.softmax(x.double() / 1.5, 1) for x in (taught, z))
    wanted = 3.0 * 1.5**2 * (p * (p / q).log()).sum(1).mean()
    assert wanted > 1e-3  # the model has moved since it answered
    assert value.item() == pytest.approx(wanted.item(), rel=1e-4)


def test_nothing_is_added_in_the_first_task(trained: tuple[World, State]) -> None:
    here, state = trained
    assert TARGET()._rehearse(step_of(here, state, 0)).item() == 0


def test_the_student_disagrees_where_it_names_the_same_class_with_another_certainty() -> None:
    z, student = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    p, q = (1 / (1 + math.exp(-x)) for x in (2.0, 1.0))
    wanted = (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))) / 2
    assert _disagreement(z, student).item() == pytest.approx(wanted, rel=1e-5)
    assert _disagreement(z, z).item() == 0


def test_two_images_of_a_class_are_compared_in_direction_and_pulled_apart_even_where_they_are_one() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0], [1.0, 0.0]])
    assert _spread(features).item() == pytest.approx(math.sqrt(2) / 2, abs=1e-5)
    close = torch.tensor([[1.0, 0.0], [1.0, 1e-4]], requires_grad=True)
    _spread(close).backward()
    assert close.grad is not None
    assert 0.5 < close.grad[1, 1] < 1.5


def test_a_generator_that_diverges_is_named(world: Make) -> None:
    here = world(sizes=(4, 6))
    with pytest.raises(RunError, match=r"generator's step 1 became nan in task 1, start round 0.*method\.lr = 1e\+38"):
        here.run(here.method("target", **{**SMALL, "lr": 1e38}))
    with pytest.raises(RunError, match=r"generator's images became nan in task 1, start round 0"):
        here.run(here.method("target", **{**SMALL, "lr": 1e38, "steps": 1}))


def test_a_text_backbone_is_refused(world: Make, tmp_path: Path) -> None:
    here = world(sizes=(4, 6))
    here.model = AdaptedModel(load_backbone(str(random_bert(tmp_path))), Adapter(rank=2))
    with pytest.raises(UserError, match="method 'target' makes images, but this backbone reads texts"):
        here.run(here.method("target"))


@pytest.mark.parametrize(
    "option",
    [{"weight": -1.0}, {"temperature": 0.0}, {"images": 0}, {"generator_batch": 7}, {"lr": float("nan")}],
    ids=str,
)
def test_options_out_of_range_are_named(option: dict[str, Any]) -> None:
    name = next(iter(option))
    with pytest.raises(UserError, match=rf"method\.{name} = "):
        make(TARGET(**option), Setting(Adapter(), None, 1))  # type: ignore[arg-type]
