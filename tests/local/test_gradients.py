"""Gradients of frozen weights against autograd on a plain backbone; the forms of Grams that parts of layers need."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fedbraid.core import Data, Round
from fedbraid.errors import UserError
from fedbraid.linalg import from_triangle
from fedbraid.local.gradients import measure_gradients
from fedbraid.local.measures import GramOf, Passes, measure_grams
from fedbraid.local.objectives import cross_entropy
from fedbraid.models import AdaptedModel, Adapter, load_backbone
from fedbraid.testing import save_tokenizer

XS = Adapter(kind="lora_xs", rank=2, blocks="0-1")


def heads(model: AdaptedModel) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(3)
    return {f"head/{t}": torch.randn(2, model.width + 1, generator=draws) * 0.1 for t in (0, 1)}


def measured(model: AdaptedModel, data: Data, round: Round, samples: int, size: int = 8) -> dict[str, Tensor]:
    options: dict[str, Any] = {"samples": samples, "batch_size": size, "objectives": (cross_entropy,)}
    return measure_gradients(model, heads(model), data, round, form=lambda layer, g: {layer: g}, **options)


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_gradients_are_those_of_the_plain_weights(
    kind: str, the_round: Round, request: pytest.FixtureRequest, bert: Path
) -> None:
    data = request.getfixturevalue(kind)
    data = type(data)(data.inputs, data.labels % 2 + 2)
    name = "tiny" if kind == "images" else str(bert)
    model = AdaptedModel(load_backbone(name), XS)
    found = measured(model, data, the_round, samples=1000)
    plain = load_backbone(name)
    plain.module.requires_grad_(True)
    head = torch.cat(list(heads(model).values()))
    logits = plain.pool(plain.module, dict(data.inputs)) @ head[:, :-1].T + head[:, -1]
    F.cross_entropy(logits[:, 2:], data.labels - 2, reduction="sum").backward()
    assert found["count"].item() == len(data)
    for layer in model.layers:
        expected = plain.module.get_submodule(layer).weight.grad.double()
        assert found[layer].dtype == torch.float64
        assert (found[layer] - expected).norm() <= 1e-4 * expected.norm() + 1e-6


def test_some_samples_stand_for_all(images: Data, the_round: Round) -> None:
    data = type(images)(images.inputs, images.labels % 2 + 2)
    model = AdaptedModel(load_backbone("tiny"), XS)
    before = torch.get_rng_state()
    some = measured(model, data, the_round, samples=6, size=4)
    assert torch.equal(torch.get_rng_state(), before)
    order = torch.randperm(25, generator=the_round.generator("gradient samples", data.client))[:8]  # two whole batches
    part = type(data)({"pixel_values": data.inputs["pixel_values"][order]}, data.labels[order])
    alone = measured(model, part, the_round, samples=1000)
    for layer in model.layers:
        assert torch.allclose(some[layer], alone[layer] * 25 / 8, rtol=1e-3, atol=1e-5)


def test_weights_without_a_gradient_are_refused(tmp_path: Path, texts: Data, the_round: Round) -> None:
    from transformers import GPT2Config, GPT2Model

    GPT2Model(GPT2Config(vocab_size=30, n_positions=40, n_embd=32, n_layer=2, n_head=2)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    model = AdaptedModel(load_backbone(str(tmp_path)), XS)
    with pytest.raises(UserError, match=r"h.0.attn.c_attn has no gradient to start from.*init = 'weight'"):
        measured(model, texts, the_round, samples=4)


Drawn = Callable[[AdaptedModel], dict[str, Tensor]]


def test_projections_in_turn_and_entrywise_factors(
    tiny: AdaptedModel, images: Data, the_round: Round, drawn: Drawn
) -> None:
    layer, values = next(iter(tiny.layers)), drawn(tiny)
    draws = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 96, generator=draws), torch.randn(5, 3, generator=draws)
    factor = torch.randn(3, 3, generator=draws)

    def gram(**options: Any) -> dict[str, Tensor]:
        wanted = [GramOf("k", layer, **options)]
        return measure_grams(tiny, values, images, the_round, wanted=wanted, passes=Passes(1))

    whole = from_triangle(gram()["triangle/k"])
    chain = (b @ a).double()
    expected = chain @ whole @ chain.T
    assert torch.allclose(from_triangle(gram(projection=(a, b))["triangle/k"]), expected, rtol=1e-4)
    assert torch.allclose(gram(projection=(a, b), form="diagonal")["diagonal/k"], expected.diagonal(), rtol=1e-4)
    projected = a.double() @ whole @ a.double().T
    weighed = from_triangle(gram(projection=a, entrywise=factor + factor.T)["triangle/k"])
    assert torch.allclose(weighed, projected * (factor + factor.T).double(), rtol=1e-4)
    shrunk = from_triangle(gram(projection=a, entrywise=factor + factor.T, off_diagonal=0.0)["triangle/k"])
    assert torch.allclose(shrunk, torch.diag(weighed.diagonal()), rtol=1e-9)
    diagonal = gram(projection=a, entrywise=factor[0].abs(), form="diagonal")["diagonal/k"]
    assert torch.allclose(diagonal, projected.diagonal() * factor[0].abs().double(), rtol=1e-4)
