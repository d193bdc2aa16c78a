"""The prompt methods: what they choose against loops over images and keys, and what a run trains of them."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedbraid.config import Config
from fedbraid.core import Round, State, Task
from fedbraid.errors import UserError
from fedbraid.export import Trained, export_run
from fedbraid.methods import METHODS, Options, Setting, make
from fedbraid.models import AdaptedModel, Adapter, load_backbone
from fedbraid.models.prompts import Chosen

Make = Callable[..., Any]
WIDTH, IMAGES = 6, 4
SMALL: dict[str, dict[str, Any]] = {"l2p": {}, "dualprompt": {}, "coda_prompt": {"components": 3}}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a: Tensor, b: Tensor) -> float:
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)) / math.sqrt(
        sum(x * x for x in a.tolist()) * sum(y * y for y in b.tolist())
    )


def adapter(options: Options) -> Adapter:
    return options.adapter(Adapter(kind="prompt"))


def chosen(name: str, values: dict[str, Tensor], query: Tensor, **options: Any) -> Chosen:
    prompts = adapter(METHODS[name](**options)).prompts
    assert prompts is not None
    return prompts.choose(values, query)


def nearest(query: Tensor, keys: Sequence[Tensor], count: int) -> list[int]:
    likeness = [cosine(query, key) for key in keys]
    return sorted(range(len(keys)), key=lambda i: -likeness[i])[:count]


def test_l2p_picks_the_nearest_prompts_of_each_image() -> None:
    query, pool, keys = normal(IMAGES, WIDTH), normal(5, 3, WIDTH, seed=1), normal(5, WIDTH, seed=2)
    found = chosen("l2p", {"pool": pool, "key": keys}, query, pool=5, length=3, top=2, matching=0.7)
    picked = [nearest(q, list(keys), 2) for q in query]
    assert len({tuple(p) for p in picked}) > 1
    assert found.tokens is not None
    for tokens, mine in zip(found.tokens, picked, strict=True):
        assert torch.equal(tokens, torch.cat([pool[i] for i in mine]))
    distance = sum(1 - cosine(q, keys[i]) for q, mine in zip(query, picked, strict=True) for i in mine)
    assert found.penalty.item() == pytest.approx(0.7 * distance / IMAGES, rel=1e-5)
    assert not found.prefixes


def test_dualprompt_gives_general_prompts_and_the_nearest_expert() -> None:
    query, general = normal(IMAGES, WIDTH), normal(2, 2, 5, WIDTH, seed=1)
    experts = {t: normal(2, 2, 20, WIDTH, seed=10 + t) for t in range(11)}
    keys = {t: normal(WIDTH, seed=30 + t) for t in range(11)}
    values = {"general": general} | {f"{t}/expert": v for t, v in experts.items()}
    values |= {f"{t}/key": v for t, v in keys.items()}
    found = chosen("dualprompt", values, query, matching=0.3)
    tasks = [nearest(q, list(keys.values()), 1)[0] for q in query]
    assert len(set(tasks)) > 1
    assert found.prefixes.keys() == {0, 1, 2, 3}  # of a backbone with four blocks
    for image, task in enumerate(tasks):
        for place, block in enumerate((0, 1)):
            assert torch.equal(found.prefixes[block][image], general[place])
        for place, block in enumerate((2, 3)):
            assert torch.equal(found.prefixes[block][image], experts[task][place])
    distance = sum(1 - cosine(q, keys[t]) for q, t in zip(query, tasks, strict=True))
    assert found.penalty.item() == pytest.approx(0.3 * distance / IMAGES, rel=1e-5)


def test_coda_prompt_sums_components_by_attended_cosines() -> None:
    names, sizes = ("component", "key", "attention"), (4 * WIDTH, WIDTH, WIDTH)
    parts = {
        n: [normal(2, m, d, seed=i + m) for m in (3, 2)] for i, (n, d) in enumerate(zip(names, sizes, strict=True))
    }
    values = {f"{t}/{name}": value for name, tasks in parts.items() for t, value in enumerate(tasks)}
    query = normal(IMAGES, WIDTH, seed=9)
    found = chosen("coda_prompt", values, query, length=4, blocks=(1, 3), orthogonality=0.2)
    component, key, attention = (torch.cat(parts[name], dim=1) for name in names)
    for place, block in enumerate((1, 3)):
        for image in range(IMAGES):
            summed = torch.zeros(4, WIDTH)
            for m in range(5):
                weight = cosine(query[image] * attention[place, m], key[place, m])
                summed += weight * component[place, m].reshape(4, WIDTH)
            assert torch.allclose(found.prefixes[block][image], torch.stack([summed[:2], summed[2:]]), atol=1e-5)
    penalty = 0.0
    for vectors in (component, key, attention):
        for place in range(2):
            for i in range(5):
                for j in range(5):
                    product = (vectors[place, i].double() @ vectors[place, j].double()).item()
                    penalty += (product - (i == j)) ** 2 / 25
    assert found.penalty.item() == pytest.approx(0.2 * penalty, rel=1e-5)


def model_of(name: str, tasks: int = 3) -> tuple[AdaptedModel, dict[str, Tensor]]:
    """The tiny model under a method's prompts, with the values of a run at the start of its last task."""
    options = METHODS[name](**SMALL[name])
    model = AdaptedModel(load_backbone("tiny"), adapter(options))
    method, state = make(options, Setting(model.adapter, None, 1)), State()  # type: ignore[arg-type]
    first = next(iter(method.phases))
    for index in range(tasks):
        round = Round(Task(index, tuple(range(0, 2 * tasks + 1, 2))), first, 0, seed=0)
        state = method.phases[first].server_update(model, state, None, round)  # type: ignore[arg-type]
    return model, dict(state.shared)


@pytest.mark.parametrize("name", SMALL)
def test_an_answer_does_not_depend_on_the_other_images(name: str) -> None:
    model, values = model_of(name)
    model.load(values)
    pixels = normal(8, 1, 16, 16)
    with torch.no_grad():
        together = model.features({"pixel_values": pixels})
        alone = torch.cat([model.features({"pixel_values": image[None]}) for image in pixels])
        plain = model.backbone.pool(model.backbone.module, {"pixel_values": pixels})
    assert torch.allclose(together, alone, atol=1e-5)
    assert (together - plain).abs().max() > 1e-2


@pytest.mark.parametrize("name", SMALL)
def test_prompts_learn_from_the_loss_and_keys_from_the_choice(name: str) -> None:
    model, values = model_of(name)
    model.load(values)
    parameters = model.parameters(("prompt",))
    features = model.features({"pixel_values": normal(8, 1, 16, 16)})
    (features.square().sum() + model.penalty()).backward()
    assert all(p.grad is None for p in model.backbone.module.parameters())
    moved = {key for key, p in parameters.items() if p.grad is not None and p.grad.abs().max() > 0}
    kinds = {key.rpartition("/")[-1] for key in moved}
    assert kinds == {"l2p": {"pool", "key"}, "dualprompt": {"general", "expert", "key"}}.get(
        name, {"component", "key", "attention"}
    )


@pytest.mark.parametrize("name", SMALL)
def test_a_run_trains_the_prompts_of_its_task_and_leaves_those_before(name: str, world: Make) -> None:
    options = SMALL[name]
    here = world(adapter=adapter(METHODS[name](**options)))
    events = here.run(here.method(name, **options))
    for before, after in pairwise(events):
        if after.round.phase != "train":
            continue
        task = after.round.task.index
        prompts = {key for key in after.state.shared if key.startswith("prompt/")}
        moved = {key for key in prompts if not torch.equal(before.state.shared[key], after.state.shared[key])}
        earlier = {key for key in prompts if key.startswith(tuple(f"prompt/{t}/" for t in range(task)))}
        assert moved == prompts - earlier


def test_a_client_trains_the_expert_of_its_task_whatever_is_nearest(world: Make) -> None:
    here = world(adapter=adapter(METHODS["dualprompt"]()))
    method = here.method("dualprompt")
    shared = here.run(method)[-1].state.shared
    round = Round(here.tasks[1], "train", 0, 0)
    given = method.phases["train"].weights(shared, round)
    assert {key for key in shared if key not in given} == {"prompt/0/expert", "prompt/0/key"}


@pytest.mark.parametrize("name", ["dualprompt", "coda_prompt"])
def test_every_task_draws_prompts_of_its_own(name: str) -> None:
    first, again = model_of(name)[1], model_of(name)[1]
    assert all(torch.equal(first[key], again[key]) for key in first)
    keys = [first[f"prompt/{task}/key"] for task in range(3)]
    assert not any(torch.equal(a, b) for a, b in pairwise(keys))
    squares = torch.stack([key.square().sum(-1).mean() for key in keys])
    assert torch.allclose(squares, torch.ones(3), atol=0.3)  # unit length, as expected


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("l2p", {"top": 11}, r"method\.top = 11: must lie between 1 and method\.pool = 10"),
        ("l2p", {"length": 0}, r"method\.length = 0"),
        ("l2p", {"matching": -1.0}, r"method\.matching = -1"),
        ("dualprompt", {"expert_blocks": (1, 2)}, r"method\.expert_blocks = \(1, 2\): \{1\} have the general prompt"),
        ("dualprompt", {"general_blocks": ()}, r"method\.general_blocks = \(\)"),
        ("dualprompt", {"expert_length": 0}, r"method\.expert_length = 0"),
        ("coda_prompt", {"blocks": (2, 1)}, r"method\.blocks = \(2, 1\): must be different block numbers in ascending"),
        ("coda_prompt", {"components": 0}, r"method\.components = 0: must be at least 1"),
        ("coda_prompt", {"length": 7}, r"method\.length = 7: must be even"),
        ("coda_prompt", {"orthogonality": -0.1}, r"method\.orthogonality = -0\.1"),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, Any], error: str, world: Make) -> None:
    here = world(sizes=(4, 6))
    here.adapter = adapter(METHODS[name](**options))
    with pytest.raises(UserError, match=error):
        here.method(name, **options)


def test_blocks_that_the_backbone_lacks() -> None:
    deep = METHODS["dualprompt"](expert_blocks=(4, 5))
    with pytest.raises(UserError, match=r"method\.expert_blocks = \(4, 5\): the backbone has only the blocks 0 to 3"):
        AdaptedModel(load_backbone("tiny"), adapter(deep))


@pytest.mark.parametrize("format", ["peft", "merged"])
def test_prompts_are_not_exported(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, values = model_of("l2p")
    monkeypatch.setattr("fedbraid.export.trained", lambda _folder: Trained(Config(), model, values, ("a", "b")))
    with pytest.raises(
        UserError, match="tuned prompts, which neither format can hold; use the model with 'fedbraid pred"
    ):
        export_run(tmp_path / "run", tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()
