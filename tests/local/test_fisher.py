"""The diagonal Fisher against closed forms of a linear model, and against torch.func on a plain backbone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from fedbraid.core import Data, Round, Task
from fedbraid.local.fisher import measure_fisher
from fedbraid.models import AdaptedModel, Adapter, load_backbone
from fedbraid.models.backbones import Backbone

Drawn = Callable[[AdaptedModel], dict[str, Tensor]]
ROUND = Round(Task(1, (0, 2, 5)), "train", 0, 5)
"""In the second task, of the classes 2, 3 and 4."""


@dataclass
class Linear:
    """A model without a backbone: heads on the inputs `x`."""

    heads: dict[str, nn.Parameter] = field(default_factory=dict)
    device = torch.device("cpu")

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self.heads = {key: nn.Parameter(value.clone()) for key, value in tensors.items()}

    def parameters(self, kinds: Sequence[str]) -> dict[str, nn.Parameter]:
        return {key: self.heads[key] for key in kinds}

    def train(self, mode: bool = True) -> None:
        assert not mode

    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return inputs["x"]

    def logits(self, features: Tensor) -> Tensor:
        return features @ torch.cat([self.heads[key] for key in sorted(self.heads)]).T


@pytest.fixture
def points(images: Data) -> Data:
    """25 points of the classes of the round's task."""
    draws = torch.Generator().manual_seed(2)
    return type(images)({"x": torch.randn(25, 4, generator=draws)}, torch.randint(2, 5, (25,), generator=draws))


def head(width: int = 4) -> Tensor:
    return torch.randn(3, width, generator=torch.Generator().manual_seed(1))


def measured(
    data: Data, round: Round = ROUND, *, rows: Tensor | None = None, samples: int = 1000, labels: str = "data"
) -> Tensor:
    """(classes, width): the Fisher of the task's head."""
    rows = head() if rows is None else rows
    weights = {"head/0": torch.ones(2, rows.shape[1]), "head/1": rows}
    found = measure_fisher(Linear(), weights, ["head/1"], data, round, samples=samples, labels=labels)
    assert set(found) == {"fisher/head/1"}
    assert found["fisher/head/1"].dtype == torch.float64
    return found["fisher/head/1"]


def squared(errors: Tensor, data: Data) -> Tensor:
    """`sum_x e_k(x) x_j^2`, (classes, width)."""
    return torch.einsum("nk,nj->kj", errors, data.inputs["x"].double().square())


def answers(data: Data) -> Tensor:
    """p(k | x) over the classes of the task, (n, classes)."""
    return (data.inputs["x"].double() @ head().double().T).softmax(1)


def own(data: Data) -> Tensor:
    """`(1[y = k] - p_k)^2`: the gradient of log p(y | x) by row k of a linear head is `(1[y = k] - p_k) x`."""
    return (nn.functional.one_hot(data.labels - 2, 3) - answers(data)).square()


def test_with_own_labels_it_is_the_closed_form(points: Data) -> None:
    assert torch.allclose(measured(points), squared(own(points), points), rtol=1e-4)


def test_with_drawn_labels_it_is_the_exact_fisher_on_average(points: Data) -> None:
    """`sum_y p(y | x) (d log p(y | x))^2 = p_k (1 - p_k) x^2`; the mean of 300 draws within five standard errors."""
    p = answers(points)
    exact = squared(p * (1 - p), points)
    draws = torch.stack([measured(points, replace(ROUND, index=i), labels="model") for i in range(300)])
    error = draws.std(0) / 300**0.5
    assert ((draws.mean(0) - exact).abs() <= 5 * error).all()
    assert ((squared(own(points), points) - exact).abs() > 5 * error).any()  # so labels of the data would be noticed


@pytest.mark.parametrize("samples", [1, 7, 24, 25, 26])
def test_a_part_of_the_samples_stands_for_all(samples: int, points: Data) -> None:
    """Every point has a column of its own, which shows whether it was taken; what was is scaled to all of them."""
    used, apart = min(samples, 25), replace(points, inputs={"x": torch.eye(25)})
    hot = nn.functional.one_hot(apart.labels - 2, 3)
    whole = ((hot - 1 / 3).double() ** 2).T
    found = [measured(apart, replace(ROUND, index=i), rows=torch.zeros(3, 25), samples=samples) for i in range(20)]
    for fisher in found:
        taken = fisher.any(0)
        assert taken.sum().item() == used
        assert torch.allclose(fisher, torch.where(taken, whole * 25 / used, 0.0), rtol=1e-6)
    assert len({tuple(fisher.any(0).tolist()) for fisher in found}) > 1 or used == 25  # other rounds, other samples


@pytest.mark.parametrize("labels", ["data", "model"])
def test_it_is_a_function_of_the_round_and_the_client(labels: str, points: Data) -> None:
    first = measured(points, samples=20, labels=labels)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    assert torch.equal(measured(points, samples=20, labels=labels), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(measured(replace(points, client="8"), samples=20, labels=labels), first)
    assert not torch.equal(measured(points, replace(ROUND, index=1), samples=20, labels=labels), first)


def test_the_order_of_the_samples_does_not_matter(points: Data) -> None:
    order = torch.randperm(25, generator=torch.Generator().manual_seed(3))
    turned = replace(points, inputs={"x": points.inputs["x"][order]}, labels=points.labels[order])
    assert torch.allclose(measured(points), measured(turned), rtol=1e-10)


class Pooled(nn.Module):
    """A plain backbone as a module that returns features."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.module, self.pool = backbone.module, backbone.pool

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.pool(self.module, inputs)


def functional_fisher(backbone: Backbone, values: Mapping[str, Tensor], scale: float, data: Data) -> dict[str, Tensor]:
    """Gradients sample by sample, without padding, through dense weights `W0 + s B A`."""
    plain = Pooled(backbone)
    layers = [key.removeprefix("lora_A/") for key in values if key.startswith("lora_A/")]
    dense = {layer: backbone.module.get_submodule(layer).weight.detach() for layer in layers}

    def loss(tuned: Mapping[str, Tensor], inputs: Mapping[str, Tensor], label: int) -> Tensor:
        weights = {
            f"module.{layer}.weight": dense[layer] + scale * tuned[f"lora_B/{layer}"] @ tuned[f"lora_A/{layer}"]
            for layer in layers
        }
        features = functional_call(plain, weights, (inputs,))
        rows = tuned["head/1"]
        return -(features @ rows[:, :-1].T + rows[:, -1]).log_softmax(1)[0, label - 2]

    sums = {key: torch.zeros(value.shape, dtype=torch.float64) for key, value in values.items()}
    for i, label in enumerate(data.labels.tolist()):
        inputs = {key: rows[i : i + 1] for key, rows in data.inputs.items()}
        if "attention_mask" in inputs:
            inputs = {key: rows[:, : int(inputs["attention_mask"].sum())] for key, rows in inputs.items()}
        for key, gradient in grad(loss)(dict(values), inputs, label).items():
            sums[key] += gradient.double().square()
    return sums


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_through_a_backbone_it_is_that_of_a_functional_model(
    kind: str, request: pytest.FixtureRequest, drawn: Drawn, the_round: Round
) -> None:
    """Every tuned value at once, the old task's head included: it takes no part."""
    name, pooling = ("tiny", "cls") if kind == "images" else (str(request.getfixturevalue("bert")), "mean")
    data = request.getfixturevalue(kind)
    data = replace(data, inputs={k: v[:5] for k, v in data.inputs.items()}, labels=torch.tensor([2, 3, 3, 2, 3]))
    adapter = Adapter(rank=3, alpha=6.0, blocks="0-1", dropout=0.5)  # measured without dropout
    model = AdaptedModel(load_backbone(name, pooling=pooling), adapter)
    values = drawn(model)
    kinds = ("lora_A", "lora_B", "head")
    found = measure_fisher(model, values, kinds, data, the_round, samples=100, labels="data")
    expected = functional_fisher(load_backbone(name, pooling=pooling), values, adapter.scale, data)
    assert set(found) == {f"fisher/{key}" for key in values}
    for key, value in expected.items():
        assert torch.allclose(found[f"fisher/{key}"], value, rtol=2e-3, atol=1e-5 * value.max().item()), key
    assert not found["fisher/head/0"].any()
    assert all(found[f"fisher/{key}"].any() for key in values if key != "head/0")
