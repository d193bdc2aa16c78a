"""The adapted model against dense weights put into a plain backbone."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fedbraid.core import TextInput
from fedbraid.errors import UserError
from fedbraid.models import AdaptedModel, Adapter, Backbone, load_backbone
from fedbraid.models.heads import fresh_head, join, logits

Saved = Callable[[str], Path]
FAMILIES = ("vit", "dinov2", "swin", "bert", "t5")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(backbone: Backbone) -> dict[str, Tensor]:
    if isinstance(backbone.input, TextInput):
        return dict(backbone.input.tokenize(["the cat sat", "a big red dog ran"]))
    reads = backbone.input
    return {"pixel_values": torch.randn(2, reads.channels, reads.size, reads.size, generator=seeded(0))}


def features(model: AdaptedModel | Backbone) -> Tensor:
    with torch.no_grad():
        if isinstance(model, Backbone):
            return model.pool(model.module, inputs(model))
        model.train(False)
        return model.features(inputs(model.backbone))


def terms(model: AdaptedModel, kind: str, rank: int, seed: int, size: float = 0.2) -> dict[str, Tensor]:
    """A low-rank term on every layer, large enough to be seen."""
    draws, values = seeded(seed), {}
    for name, (d_out, d_in) in model.layers.items():
        values[f"{kind}_A/{name}"] = torch.randn(rank, d_in, generator=draws) * size
        values[f"{kind}_B/{name}"] = torch.randn(d_out, rank, generator=draws) * size
    return values


def dense(backbone: Backbone, *updates: tuple[dict[str, Tensor], str, float]) -> Backbone:
    """The plain backbone with `W0 + sum scale B A` as weights."""
    for values, kind, scale in updates:
        for key in [k for k in values if k.startswith(f"{kind}_B/")]:
            name = key.split("/", 1)[1]
            weight = backbone.module.get_submodule(name).weight
            update = values[key].double() @ values[f"{kind}_A/{name}"].double()
            weight.data = (weight.double() + scale * update).float()
    return backbone


@pytest.mark.parametrize("family", FAMILIES)
def test_forward_is_the_dense_computation(family: str, saved: Saved) -> None:
    name = str(saved(family))
    model = AdaptedModel(load_backbone(name), Adapter(rank=3, alpha=6.0))
    plain = features(load_backbone(name))
    lora, delta = terms(model, "lora", 3, 1), terms(model, "delta", 5, 2)
    model.load(lora | delta)
    both = features(model)
    expected = features(dense(load_backbone(name), (lora, "lora", 2.0), (delta, "delta", 1.0)))
    assert torch.allclose(both, expected, atol=2e-5)
    assert (both - plain).abs().max() > 0.05
    model.load(lora)
    assert torch.allclose(features(model), features(dense(load_backbone(name), (lora, "lora", 2.0))), atol=2e-5)
    model.load(delta)
    assert torch.allclose(features(model), features(dense(load_backbone(name), (delta, "delta", 1.0))), atol=2e-5)
    wider = terms(model, "delta", 8, 3)
    model.load(wider)
    assert torch.allclose(features(model), features(dense(load_backbone(name), (wider, "delta", 1.0))), atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_low_rank_terms_the_output_is_the_pretrained_one(family: str, saved: Saved) -> None:
    name = str(saved(family))
    plain = features(load_backbone(name))
    model = AdaptedModel(load_backbone(name), Adapter(rank=3))
    assert torch.equal(features_after(model, {}), plain)
    features_after(model, terms(model, "lora", 3, 1) | terms(model, "delta", 5, 2))
    assert torch.equal(features_after(model, {"head/0": torch.zeros(2, 33)}), plain)
    fresh = model.fresh(seeded(0))  # B is zero
    assert torch.equal(features_after(model, fresh), plain)


def features_after(model: AdaptedModel, values: dict[str, Tensor]) -> Tensor:
    model.load(values)
    return features(model)


def test_one_layer_alone_is_w0_plus_both_products(saved: Saved) -> None:
    model = AdaptedModel(load_backbone(str(saved("vit"))), Adapter(rank=3))
    name = "layers.1.mlp.fc1"
    plain = load_backbone(str(saved("vit"))).module.get_submodule(name)
    values = terms(model, "lora", 3, 1) | terms(model, "delta", 5, 2)
    model.load(values)
    x = torch.randn(7, 32, generator=seeded(4))
    update = sum(values[f"{k}_B/{name}"].double() @ values[f"{k}_A/{name}"].double() for k in ("lora", "delta"))
    expected = x.double() @ (plain.weight.double() + update).T + plain.bias.double()
    with torch.no_grad():
        assert torch.allclose(model.backbone.module.get_submodule(name)(x).double(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "blocks", "count"), [("all", "", 12), ("qkv", "", 6), ("mlp", "1", 2), (("fc2",), "", 2)]
)
def test_exactly_the_chosen_layers_are_adapted(
    kind: str | tuple[str, ...], blocks: str, count: int, saved: Saved
) -> None:
    model = AdaptedModel(load_backbone(str(saved("vit"))), Adapter(rank=2, layers=kind, blocks=blocks))
    adapted = [name for name, m in model.backbone.module.named_modules() if hasattr(m, "base_layer")]
    assert adapted == list(model.layers)
    assert len(adapted) == count


def test_no_rank_is_higher_than_a_layer_is_wide(saved: Saved) -> None:
    widest = max(
        max(shape) for shape in AdaptedModel(load_backbone(str(saved("vit"))), Adapter(rank=1)).layers.values()
    )
    AdaptedModel(load_backbone(str(saved("vit"))), Adapter(rank=widest))
    with pytest.raises(UserError, match=rf"adapter\.rank = 1000000000: the widest layer has {widest} dimensions"):
        AdaptedModel(load_backbone(str(saved("vit"))), Adapter(rank=10**9))


def test_tensors_that_are_no_model_are_refused_by_name(saved: Saved) -> None:
    model = AdaptedModel(load_backbone(str(saved("vit"))), Adapter(rank=2, layers=["fc1"], blocks="1"))
    name = next(iter(model.layers))
    whole = terms(model, "lora", 2, 1)
    for tensors, complaint in (
        ({key: value for key, value in whole.items() if key.startswith("lora_B/")}, "'lora_A/.*' is missing"),
        ({f"delta_B/{name}": torch.zeros(1, 2)}, f"'delta_B/{name}' and 'delta_A/{name}' are no update"),
        (terms(model, "delta", 3, 1) | {f"delta_B/{name}": torch.zeros(1, 2)}, "are no update"),
        (whole | {"head/x": torch.zeros(2, 33)}, "'head/x' is no head"),
        (whole | {"head/-1": torch.zeros(2, 33)}, "'head/-1' is no head"),
    ):
        with pytest.raises(UserError, match=complaint):
            model.load(tensors)
    model.load(whole)
    with pytest.raises(UserError, match="predicts nothing without a head"):
        model.logits(torch.zeros(1, 32))


def test_timm_layers_are_adapted(timm_file: Callable[[str], Path]) -> None:
    name = f"timm:vit_tiny_patch16_224@{timm_file('vit_tiny_patch16_224')}"
    plain = load_backbone(name)
    model = AdaptedModel(load_backbone(name), Adapter(rank=2, blocks="1"))
    assert {n.split(".")[1] for n in model.layers} == {"1"}
    assert model.layers["blocks.1.attn.qkv"] == (576, 192)
    before = features(plain)
    assert torch.equal(features(model), before)
    lora = terms(model, "lora", 2, 1)
    model.load(lora)
    assert torch.allclose(features(model), features(dense(plain, (lora, "lora", 1.0))), atol=1e-4)


def test_only_the_kinds_asked_for_require_gradients(saved: Saved) -> None:
    model = AdaptedModel(load_backbone(str(saved("vit"))), Adapter(rank=2))
    heads = {f"head/{t}": torch.zeros(2, 33) for t in (0, 1, 10)}
    model.load(terms(model, "lora", 2, 1) | terms(model, "delta", 4, 2) | heads)
    for kinds in (("lora_B", "head/1"), ("lora_A",), ("head",), ("lora_A", "lora_B", "head/10")):
        parameters = model.parameters(kinds)
        assert all(key in kinds or key.split("/")[0] in kinds for key in parameters)
        inside = {id(p) for p in model.backbone.module.parameters() if p.requires_grad}
        assert inside <= {id(p) for p in parameters.values()}
        assert all(p.requires_grad for p in parameters.values())
        assert set(model.values(kinds)) == set(parameters)
    assert set(model.parameters(("head/1",))) == {"head/1"}
    model.load(terms(model, "lora", 2, 1))
    assert not [p for p in model.backbone.module.parameters() if p.requires_grad]


def test_loading_copies_and_values_are_copies(saved: Saved) -> None:
    model = AdaptedModel(load_backbone(str(saved("vit"))), Adapter(rank=2))
    given = terms(model, "lora", 2, 1) | {"head/0": torch.ones(2, 33)}
    held = {key: value.clone() for key, value in given.items()}
    model.load(given)
    with torch.no_grad():
        for parameter in model.parameters(("lora_A", "lora_B", "head")).values():
            parameter.add_(1)
    assert all(torch.equal(given[key], held[key]) for key in given)
    read = model.values(("lora_A",))
    before = {key: value.clone() for key, value in read.items()}
    model.load(held)
    assert all(torch.equal(read[key], before[key]) for key in read)
    assert all(torch.equal(value, held[key]) for key, value in model.values(("lora_A", "lora_B", "head")).items())


def test_the_base_stays_as_it_is_when_low_rank_factors_train(saved: Saved) -> None:
    model = AdaptedModel(load_backbone(str(saved("vit"))), Adapter(rank=2))
    frozen = {n: p.clone() for n, p in model.backbone.module.named_parameters() if "lora" not in n}
    model.load(terms(model, "lora", 2, 1) | {"head/0": torch.zeros(2, 33)})
    parameters = model.parameters(("lora_A", "lora_B", "head/0"))
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        out = model.logits(model.features(inputs(model.backbone)))
        nn.functional.cross_entropy(out, torch.tensor([0, 1])).backward()
        optimizer.step()
    assert all(torch.equal(model.backbone.module.get_parameter(n), p) for n, p in frozen.items())
    assert torch.equal(features_after(model, {}), features(load_backbone(str(saved("vit")))))


def test_a_new_term_leaves_the_global_generator_alone(saved: Saved) -> None:
    model = AdaptedModel(load_backbone(str(saved("vit"))), Adapter(rank=2))
    before = torch.get_rng_state()
    model.load(terms(model, "lora", 2, 1) | terms(model, "delta", 6, 2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("family", ["vit", "t5"])
def test_full_fine_tuning_round_trip(family: str, saved: Saved) -> None:
    name = str(saved(family))
    model, plain = AdaptedModel(load_backbone(name), Adapter(kind="full")), features(load_backbone(name))
    first = model.fresh(seeded(0))
    assert set(first) == {f"base/{n}" for n, _ in load_backbone(name).module.named_parameters()}
    changed = {key: value + 0.05 * torch.randn(value.shape, generator=seeded(1)) for key, value in first.items()}
    moved = features_after(model, changed)
    assert (moved - plain).abs().max() > 1e-2
    read = model.values(("base",))
    assert all(torch.equal(read[key], changed[key]) for key in changed)
    assert torch.equal(features_after(model, model.fresh(seeded(0))), plain)  # fresh values are the pre-trained ones
    assert torch.equal(features_after(model, read), moved)


def test_full_fine_tuning_trains_every_parameter(saved: Saved) -> None:
    model = AdaptedModel(load_backbone(str(saved("vit"))), Adapter(kind="full"))
    model.load(model.fresh(seeded(0)) | {"head/0": fresh_head(2, 32, seeded(1))})
    parameters = model.parameters(("base", "head/0"))
    model.logits(model.features(inputs(model.backbone))).square().sum().backward()
    without = [key for key, p in parameters.items() if p.grad is None]
    assert set(without) <= {"base/embeddings.mask_token"}
    assert len(parameters) == len(list(model.backbone.module.parameters())) + 1


def test_batch_normalisation_moves_under_full_fine_tuning_only() -> None:
    def bn_backbone() -> Backbone:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        reads = load_backbone("tiny").input
        return Backbone("bn", net.eval(), reads, 4, lambda module, x: module(x["pixel_values"]))

    pixels = {"pixel_values": torch.randn(8, 3, 6, 6, generator=seeded(0)) + 3}
    frozen = AdaptedModel(bn_backbone(), Adapter(kind="none"))
    before = {k: v.clone() for k, v in frozen.backbone.module.state_dict().items()}
    frozen.train()
    frozen.features(pixels)
    assert all(torch.equal(v, before[k]) for k, v in frozen.backbone.module.state_dict().items())
    tuned = AdaptedModel(bn_backbone(), Adapter(kind="full"))
    tuned.load(tuned.fresh(seeded(0)))
    tuned.train()
    tuned.features(pixels)
    moved = tuned.values(("base",))
    assert not torch.equal(moved["base/1.running_mean"], before["1.running_mean"])
    assert set(tuned.fresh(seeded(0))) == set(moved)
    assert not [key for key in tuned.parameters(("base",)) if "running" in key]


def test_fresh_factors_are_uniform_and_b_is_zero(saved: Saved) -> None:
    model = AdaptedModel(load_backbone(str(saved("bert"))), Adapter(rank=16))
    first, again, other = model.fresh(seeded(1)), model.fresh(seeded(1)), model.fresh(seeded(2))
    for name, (d_out, d_in) in model.layers.items():
        a, b = first[f"lora_A/{name}"], first[f"lora_B/{name}"]
        assert a.shape == (16, d_in)
        assert torch.equal(b, torch.zeros(d_out, 16))
        bound = 1 / math.sqrt(d_in)
        assert a.abs().max() <= bound
        assert a.abs().max() > 0.9 * bound
        assert abs(a.std().item() - bound / math.sqrt(3)) < 0.15 * bound
        assert torch.equal(a, again[f"lora_A/{name}"])
        assert not torch.equal(a, other[f"lora_A/{name}"])


def test_kinds_that_there_are_not(saved: Saved) -> None:
    model = AdaptedModel(load_backbone(str(saved("vit"))), Adapter(rank=2))
    with pytest.raises(UserError, match="no place for 'prefix/0'"):
        model.load({"prefix/0": torch.zeros(1)})
    with pytest.raises(UserError, match="rank of at least 1"):
        Adapter(rank=0)


def test_heads_are_joined_in_the_order_of_the_stream() -> None:
    heads = {t: torch.full((1, 3), float(t)) for t in (10, 2, 0)}
    assert join(heads)[:, 0].tolist() == [0.0, 2.0, 10.0]
    head = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
    assert logits(torch.tensor([[1.0, 1.0], [2.0, 0.0]]), head).tolist() == [[3.5, 2.0], [2.5, 3.0]]
    drawn = fresh_head(50, 16, seeded(0))
    assert drawn.shape == (50, 17)
    assert drawn[:, :-1].abs().max() <= 0.25
    assert torch.equal(drawn[:, -1], torch.zeros(50))
