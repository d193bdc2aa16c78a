"""Moments of features against numpy on features that are taken sample by sample, without padding."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fedbraid.core import Data, Round, Task
from fedbraid.linalg import from_triangle
from fedbraid.local.moments import class_moments, ridge_moments
from fedbraid.models import AdaptedModel

Drawn = Callable[[AdaptedModel], dict[str, Tensor]]
ROUND = Round(Task(1, (0, 2, 5)), "ridge", 0, 5)
"""In a task of the classes 2, 3 and 4."""


@pytest.fixture(params=["images", "texts"])
def case(request: pytest.FixtureRequest) -> tuple[AdaptedModel, Data]:
    """A model in the midst of training and data of the classes 2 and 4: nobody has class 3."""
    names = {"images": "tiny", "texts": "text_model"}
    model, data = request.getfixturevalue(names[request.param]), request.getfixturevalue(request.param)
    model.train()
    return model, replace(data, labels=torch.where(data.labels % 2 == 0, 2, 4))


def features(model: AdaptedModel, values: Mapping[str, Tensor], data: Data) -> np.ndarray:
    model.load(values)
    model.backbone.module.eval()
    rows = []
    for i in range(len(data)):
        inputs = {key: value[i : i + 1] for key, value in data.inputs.items()}
        if "attention_mask" in inputs:
            inputs = {key: value[:, : int(inputs["attention_mask"].sum())] for key, value in inputs.items()}
        with torch.no_grad():
            rows.append(model.backbone.pool(model.backbone.module, inputs)[0].double().numpy())
    return np.stack(rows)


def near(found: Tensor, expected: np.ndarray) -> bool:
    """Equal up to the fp32 rounding of features."""
    assert found.dtype == torch.float64
    assert found.shape == expected.shape
    return bool(np.abs(found.numpy() - expected).max() <= 2e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("second", [False, True])
def test_class_moments_are_pooled_sums(second: bool, case: tuple[AdaptedModel, Data], drawn: Drawn) -> None:
    model, data = case
    values = drawn(model)
    found = class_moments(model, values, data, ROUND, second=second)
    assert set(found) == ({"count", "first", "second"} if second else {"count", "first"})
    f, labels = features(model, values, data), data.labels.numpy()
    for place, label in enumerate((2, 3, 4)):
        rows = f[labels == label]
        assert found["count"][place].item() == len(rows)
        assert near(found["first"][place], rows.sum(0))
        if second:
            assert near(from_triangle(found["second"][place]), rows.T @ rows)
    assert found["count"][1] == 0


def test_ridge_moments_are_pooled_sums_with_a_constant(case: tuple[AdaptedModel, Data], drawn: Drawn) -> None:
    model, data = case
    values = drawn(model)
    found = ridge_moments(model, values, data, ROUND, held_out=0.4)
    assert set(found) == {f"{part}/{name}" for part in ("fit", "held") for name in ("count", "gram", "product/1")}
    f = np.hstack([features(model, values, data), np.ones((len(data), 1))])
    hot = np.stack([data.labels.numpy() == label for label in (2, 3, 4)]).astype(float)
    for name, expected in (("count", np.array(float(len(data)))), ("product/1", hot @ f)):
        assert near(found[f"fit/{name}"] + found[f"held/{name}"], expected)
    assert near(from_triangle(found["fit/gram"]) + from_triangle(found["held/gram"]), f.T @ f)
    assert 0 < found["held/count"] < len(data)


class Identity:
    """A model whose features are its inputs."""

    width = 300
    device = torch.device("cpu")

    def load(self, tensors: Mapping[str, Tensor]) -> None: ...

    def train(self, mode: bool = True) -> None: ...

    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return inputs["x"]


@pytest.fixture
def apart(images: Data) -> Data:
    """300 samples, which are several batches; each has a feature of its own."""
    return type(images)({"x": torch.eye(300)}, torch.arange(300) % 3 + 2)


def test_sums_go_on_over_batches(apart: Data) -> None:
    found = class_moments(Identity(), {}, apart, ROUND, second=True)
    hot = (torch.arange(2, 5)[:, None] == apart.labels).double()
    assert torch.equal(found["count"], hot.sum(1))
    assert torch.equal(found["first"], hot)
    assert all(torch.equal(from_triangle(found["second"][c]), hot[c].diag()) for c in range(3))


def parts(data: Data, round: Round = ROUND, *, held_out: float = 0.3) -> tuple[Tensor, Tensor]:
    """Which samples are in the part to fit, and which are held out; every sum of a part must be over the same."""
    found = ridge_moments(Identity(), {}, data, round, held_out=held_out)
    inside = []
    for part in ("fit", "held"):
        gram, product = from_triangle(found[f"{part}/gram"]), found[f"{part}/product/1"]
        places = gram.diagonal()[:-1] > 0
        chosen = torch.cat([data.inputs["x"][places].double(), torch.ones(int(places.sum()), 1).double()], dim=1)
        assert torch.equal(gram, chosen.T @ chosen)
        hot = (torch.arange(2, 5)[:, None] == data.labels[places]).double()
        assert torch.equal(product, hot @ chosen)
        assert found[f"{part}/count"].item() == places.sum()
        inside.append(places)
    return inside[0], inside[1]


def test_without_a_share_there_is_no_second_part(apart: Data) -> None:
    found = ridge_moments(Identity(), {}, apart, ROUND, held_out=0.0)
    assert set(found) == {"fit/count", "fit/gram", "fit/product/1"}
    assert found["fit/count"].item() == 300


@pytest.mark.parametrize("held_out", [0.3, 0.9])
def test_every_sample_is_in_one_part(held_out: float, apart: Data) -> None:
    fit, held = parts(apart, held_out=held_out)
    assert (fit ^ held).all()
    error = (held_out * (1 - held_out) / 300) ** 0.5
    assert abs(held.double().mean().item() - held_out) <= 4 * error
    assert not torch.equal(held[:128], held[128:256]) or held_out == 0  # every batch has draws of its own


def test_what_is_held_out_is_drawn_by_seed_task_and_client(apart: Data) -> None:
    _, held = parts(apart)
    torch.manual_seed(8)
    assert torch.equal(parts(apart)[1], held)
    later, other = replace(ROUND, task=Task(1, (0, 2, 5, 7))), replace(ROUND, seed=6)
    assert torch.equal(parts(apart, later)[1], held)  # of the task, not of what comes after it
    assert not torch.equal(parts(apart, other)[1], held)
    assert not torch.equal(parts(replace(apart, client="8"))[1], held)
