"""Scalings, VeRA and LoRA-XS inside a backbone, against dense weights on a plain one and against peft's own layers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import IA3Config, PeftModel, VeraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn

from fedbraid.core import TextInput
from fedbraid.errors import UserError
from fedbraid.models import AdaptedModel, Adapter, Backbone, load_backbone
from fedbraid.models.layers import weight_of
from fedbraid.models.peft_files import save_adapter, save_merged
from fedbraid.models.tuning.vera import left_matrix, right_matrix

Saved = Callable[[str], Path]
Values = dict[str, Tensor]
IA3, IA3_INPUT, IA3_PEFT = (Adapter(kind="ia3", scaled=scaled) for scaled in ("output", "input", "peft"))
VERA, XS = Adapter(kind="vera", rank=3), Adapter(kind="lora_xs", rank=3, alpha=6.0)
KINDS = pytest.mark.parametrize("adapter", [IA3, IA3_INPUT, IA3_PEFT, VERA, XS], ids=["l", "li", "lp", "vera", "xs"])


@pytest.fixture
def named(saved: Saved, tmp_path: Path) -> Callable[[str], str]:
    """The folder of a family's model; GPT-2 stores its weights transposed."""

    def name(family: str) -> str:
        if family != "gpt2":
            return str(saved(family))
        from transformers import GPT2Config, GPT2Model

        torch.manual_seed(0)
        config = GPT2Config(vocab_size=30, n_positions=40, n_embd=32, n_layer=2, n_head=2)
        GPT2Model(config).save_pretrained(tmp_path / "gpt2")
        for file in saved("bert").iterdir():
            if file.name.startswith("tokenizer") or file.name.startswith("special"):
                (tmp_path / "gpt2" / file.name).write_bytes(file.read_bytes())
        return str(tmp_path / "gpt2")

    return name


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


def drawn(model: AdaptedModel, size: float = 0.3) -> Values:
    """Values that are seen: first ones and noise."""
    draws = seeded(1)
    fresh = model.fresh(draws)
    return {k: v if k == "vera" else v + size * torch.randn(v.shape, generator=draws) for k, v in fresh.items()}


def dense(backbone: Backbone, adapter: Adapter, values: Values, layers: list[str]) -> Backbone:
    """The plain backbone with what the adapter does to its layers written into their weights."""
    for name in layers:
        module = backbone.module.get_submodule(name)
        weight = weight_of(module).data
        w = weight.double()
        if adapter.kind == "vera":
            d_out, d_in = w.shape
            b, d = values[f"vera_b/{name}"].double(), values[f"vera_d/{name}"].double()
            left, right = left_matrix(values["vera"], d_out).double(), right_matrix(values["vera"], d_in).double()
            w = w + torch.diag(b) @ left @ torch.diag(d) @ right
            if f"vera_M/{name}" in values:
                w = w + values[f"vera_M/{name}"].double() @ right
        elif adapter.kind == "lora_xs":
            core = [values[f"core_{part}/{name}"].double() for part in "BRA"]
            w = w + adapter.scale * core[0] @ core[1] @ core[2]
        else:
            scale = values[f"scaling/{name}"].double()
            last = not any(part in name for part in ("attn", "attention", "Attention")) and w.shape[0] < w.shape[1]
            if adapter.scaled == "input" or (adapter.scaled == "peft" and last):
                w = w @ torch.diag(scale)
            else:
                w = torch.diag(scale) @ w
                if module.bias is not None:
                    module.bias.data = (module.bias.double() * scale).float()
        weight.copy_(w.float())
    return backbone


@pytest.mark.parametrize("family", ["vit", "bert", "t5", "gpt2"])
@KINDS
def test_forward_is_the_dense_computation(family: str, adapter: Adapter, named: Callable[[str], str]) -> None:
    name = named(family)
    model = AdaptedModel(load_backbone(name), adapter)
    values = drawn(model)
    plain = features(load_backbone(name))
    model.load(values)
    tuned = features(model)
    assert (tuned - plain).abs().max() > 0.01
    expected = features(dense(load_backbone(name), adapter, values, list(model.layers)))
    assert torch.allclose(tuned, expected, atol=5e-5)


@KINDS
def test_without_values_and_at_first_the_output_is_the_pretrained_one(adapter: Adapter, saved: Saved) -> None:
    name = str(saved("vit"))
    model = AdaptedModel(load_backbone(name), adapter)
    plain = features(load_backbone(name))
    model.load(drawn(model))
    features(model)
    model.load({})
    assert torch.equal(features(model), plain)
    model.load(model.fresh(seeded(0)))
    assert torch.allclose(features(model), plain, atol=1e-4)  # LoRA-XS begins at 1e-5


def test_vera_adds_what_was_merged(saved: Saved) -> None:
    name = str(saved("vit"))
    model = AdaptedModel(load_backbone(name), VERA)
    values = drawn(model)
    for layer, (d_out, _) in model.layers.items():
        values[f"vera_M/{layer}"] = 0.1 * torch.randn(d_out, 3, generator=seeded(5))
    model.load(values)
    expected = features(dense(load_backbone(name), VERA, values, list(model.layers)))
    assert torch.allclose(features(model), expected, atol=5e-5)
    alone = {k: v for k, v in values.items() if not k.startswith(("vera_b", "vera_d"))}
    model.load(alone)
    still = {**values, **{k: torch.zeros_like(v) for k, v in values.items() if k.startswith("vera_b")}}
    assert torch.allclose(
        features(model), features(dense(load_backbone(name), VERA, still, list(model.layers))), atol=5e-5
    )


@pytest.mark.parametrize("adapter", [IA3, IA3_PEFT], ids=["output", "peft"])
def test_scalings_are_pefts(adapter: Adapter, saved: Saved) -> None:
    name = str(saved("bert"))
    model = AdaptedModel(load_backbone(name), adapter)
    values = drawn(model)
    model.load(values)
    inner = [n for n, (d_out, d_in) in model.layers.items() if len(values[f"scaling/{n}"]) != d_out]
    config = IA3Config(target_modules=list(model.layers), feedforward_modules=inner)
    backbone = load_backbone(name)
    theirs = get_peft_model(backbone.module, config)
    for layer in model.layers:
        vector = theirs.base_model.model.get_submodule(layer).ia3_l["default"]
        vector.data = values[f"scaling/{layer}"].reshape(vector.shape)
    assert torch.allclose(features(model), features(replace(backbone, module=theirs.base_model.model)), atol=1e-5)


def test_vera_is_pefts(saved: Saved) -> None:
    """On layers of one shape, where all share the whole of both matrices."""
    adapter = replace(VERA, layers=("query", "value"))
    name = str(saved("bert"))
    model = AdaptedModel(load_backbone(name), adapter)
    values = drawn(model)
    model.load(values)
    backbone = load_backbone(name)
    theirs = get_peft_model(backbone.module, VeraConfig(r=3, target_modules=list(model.layers)))
    theirs.base_model.vera_A["default"].data = right_matrix(values["vera"], 32)
    theirs.base_model.vera_B["default"].data = left_matrix(values["vera"], 32)
    for layer in model.layers:
        module = theirs.base_model.model.get_submodule(layer)
        module.vera_lambda_b["default"].data = values[f"vera_b/{layer}"].clone()
        module.vera_lambda_d["default"].data = values[f"vera_d/{layer}"].clone()
    theirs.eval()
    assert torch.allclose(features(model), features(replace(backbone, module=theirs.base_model.model)), atol=1e-5)


def test_first_values(saved: Saved) -> None:
    name = str(saved("bert"))
    ia3, vera, xs = (AdaptedModel(load_backbone(name), adapter) for adapter in (IA3_PEFT, VERA, XS))
    assert all(torch.equal(v, torch.ones_like(v)) for v in ia3.fresh(seeded(0)).values())
    sizes = {n: len(v) for n, v in ((k.split("/")[1], v) for k, v in ia3.fresh(seeded(0)).items())}
    assert sizes["encoder.layer.0.output.dense"] == 64  # reads 64, writes 32
    assert sizes["encoder.layer.0.intermediate.dense"] == 64  # reads 32, writes 64
    first = vera.fresh(seeded(0))
    assert all(not v.any() for k, v in first.items() if k.startswith("vera_b/"))
    assert all(torch.equal(v, torch.full((3,), 0.1)) for k, v in first.items() if k.startswith("vera_d/"))
    assert first["vera"].dtype == torch.int64
    assert not torch.equal(first["vera"], vera.fresh(seeded(1))["vera"])
    plain = load_backbone(name).module
    for layer in xs.layers:
        values = xs.fresh(seeded(0))
        b, r, a = (values[f"core_{part}/{layer}"] for part in "BRA")
        weight = plain.get_submodule(layer).weight.detach()
        best = torch.linalg.svd(weight, full_matrices=False)
        assert torch.allclose(b @ a, best.U[:, :3] * best.S[:3] @ best.Vh[:3], atol=1e-5)
        assert torch.allclose(b.T @ b, torch.eye(3), atol=1e-5)
        assert 0 < r.abs().max() < 1e-4


def test_random_matrices_follow_from_their_seeds(saved: Saved) -> None:
    vera = AdaptedModel(load_backbone(str(saved("vit"))), replace(VERA, rank=16)).fresh(seeded(0))["vera"]
    left, right = left_matrix(vera, 400), right_matrix(vera, 300)
    assert left.shape == (400, 16)
    assert right.shape == (16, 300)
    assert torch.equal(left, left_matrix(vera.clone(), 400))
    for matrix, fan_in in ((left, 16), (right, 300)):
        bound = (6 / fan_in) ** 0.5
        assert 0.98 * bound < matrix.abs().max() <= bound
        assert abs(matrix.mean().item()) < 0.05 * bound
    square = left_matrix(vera, 16), right_matrix(vera, 16)
    assert not torch.equal(square[0], square[1])


@KINDS
def test_training_moves_the_trained_values_alone(adapter: Adapter, saved: Saved) -> None:
    kinds = {"ia3": ("scaling",), "vera": ("vera_b", "vera_d"), "lora_xs": ("core_R",)}[adapter.kind]
    model = AdaptedModel(load_backbone(str(saved("vit"))), adapter)
    plain = {n: p.clone() for n, p in load_backbone(str(saved("vit"))).module.named_parameters()}
    values = drawn(model)
    model.load(values)
    parameters = model.parameters(kinds)
    assert {key.split("/")[0] for key in parameters} == set(kinds)
    model.train()
    model.features(inputs(model.backbone))[:, :5].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in parameters.values())
    torch.optim.SGD(parameters.values(), lr=0.1).step()
    assert all(not torch.equal(model.values((key,))[key], values[key]) for key in parameters)
    own = dict(model.backbone.module.named_parameters())
    assert all(torch.equal(own[n], p) for n, p in plain.items())


def test_the_gradient_of_a_frozen_weight_can_be_asked_for(saved: Saved) -> None:
    name = str(saved("vit"))
    model = AdaptedModel(load_backbone(name), XS)
    model.load({})
    weights = model.parameters(("weight",))
    assert set(weights) == {f"weight/{layer}" for layer in model.layers}
    model.train(False)
    found = torch.autograd.grad(model.features(inputs(model.backbone)).square().sum(), list(weights.values()))
    plain = load_backbone(name)
    plain.module.requires_grad_(True)
    plain.pool(plain.module, inputs(plain)).square().sum().backward()
    for key, gradient in zip(weights, found, strict=True):
        theirs = plain.module.get_submodule(key.split("/")[1]).weight.grad
        assert torch.allclose(gradient, theirs, atol=1e-4)
    model.parameters(())
    assert not [p for p in model.backbone.module.parameters() if p.requires_grad]
    with pytest.raises(UserError, match="no place for 'weight/"):
        model.load({key: value.detach() for key, value in weights.items()})


@KINDS
def test_bf16_products_are_near_those_of_fp32(adapter: Adapter, saved: Saved) -> None:
    name = str(saved("vit"))
    whole, half = (AdaptedModel(load_backbone(name), adapter, precision=p) for p in ("fp32", "bf16"))
    values = drawn(whole)
    for model in (whole, half):
        model.load(values)
    exact, rounded = features(whole), features(half)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert (exact - rounded).norm() < 0.03 * exact.norm()
    trained = half.parameters({"ia3": ("scaling",), "vera": ("vera_b",), "lora_xs": ("core_R",)}[adapter.kind])
    half.features(inputs(half.backbone)).square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in trained.values())


def test_what_a_scaling_scales_can_be_watched(saved: Saved) -> None:
    """The Gram of a scaling is that of what goes into it: outputs with their bias, or inputs before they are scaled."""
    name, layer = str(saved("vit")), "layers.0.mlp.fc2"
    model = AdaptedModel(load_backbone(name), IA3_PEFT)
    model.load(drawn(model))
    seen: dict[str, Tensor] = {}
    names = [layer, f"{layer}.scaling", "layers.0.mlp.fc1", "layers.0.mlp.fc1.scaling"]
    with torch.no_grad(), model.inputs_of(names, lambda n, x: seen.__setitem__(n, x.clone())):
        model.features(inputs(model.backbone))
    assert torch.equal(seen[f"{layer}.scaling"] * model.values(("scaling",))[f"scaling/{layer}"], seen[layer])
    fc1: nn.Module = load_backbone(name).module.get_submodule("layers.0.mlp.fc1")
    assert torch.allclose(seen["layers.0.mlp.fc1.scaling"], fc1(seen["layers.0.mlp.fc1"]), atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@KINDS
def test_exports_are_the_model(
    family: str, adapter: Adapter, named: Callable[[str], str], saved: Saved, tmp_path: Path
) -> None:
    name = named(family)
    model = AdaptedModel(load_backbone(name), adapter)
    values = drawn(model)
    model.load(values)
    expected = features(model)
    merged, peft = tmp_path / "merged", tmp_path / "peft"
    merged.mkdir()
    save_merged(values, adapter, model.layers, model.backbone, merged)
    for file in Path(name).iterdir():
        if file.name.startswith(("tokenizer", "special")):
            (merged / file.name).write_bytes(file.read_bytes())
    assert torch.allclose(features(load_backbone(str(merged))), expected, atol=5e-5)
    save_adapter(values, adapter, model.layers, model.backbone, peft)
    plain = load_backbone(name)
    loaded = PeftModel.from_pretrained(plain.module, str(peft)).eval().base_model.model
    assert torch.allclose(features(replace(plain, module=loaded)), expected, atol=5e-5)
    if adapter.kind != "ia3":
        assert {t.shape[0] for k, t in load_file(peft / "adapter_model.safetensors").items() if "lora_A" in k} == {3}


def test_an_export_of_merged_veras_holds_their_sum(saved: Saved, tmp_path: Path) -> None:
    name = str(saved("vit"))
    model = AdaptedModel(load_backbone(name), VERA)
    values = {"vera": drawn(model)["vera"]}
    values |= {f"vera_M/{n}": 0.1 * torch.randn(s[0], 3, generator=seeded(3)) for n, s in model.layers.items()}
    model.load(values)
    save_merged(values, VERA, model.layers, model.backbone, tmp_path)
    assert torch.allclose(features(load_backbone(str(tmp_path))), features(model), atol=5e-5)


def test_what_does_not_fit_is_refused(saved: Saved) -> None:
    name = str(saved("vit"))
    with pytest.raises(UserError, match="has no scale"):
        Adapter(kind="vera", alpha=4.0)
    with pytest.raises(UserError, match="no term to drop inputs of"):
        Adapter(kind="ia3", dropout=0.1)
    with pytest.raises(UserError, match="has no so many directions"):
        AdaptedModel(load_backbone(name), Adapter(kind="lora_xs", rank=33))
    other = AdaptedModel(load_backbone(name), Adapter(kind="vera", rank=2)).fresh(seeded(0))
    with pytest.raises(UserError, match=r"rank 2.*rank 3"):
        AdaptedModel(load_backbone(name), VERA).load({"vera": other["vera"]})
    with pytest.raises(UserError, match=r"'vera_d/.*shape \(2,\)"):
        AdaptedModel(load_backbone(name), VERA).load(other)
    with pytest.raises(UserError, match="tunes no 'scaling/nowhere'"):
        AdaptedModel(load_backbone(name), IA3).load({"scaling/nowhere": torch.ones(3)})
    with pytest.raises(UserError, match="no place for 'lora_A/x'"):
        AdaptedModel(load_backbone(name), XS).load({"lora_A/x": torch.ones(3)})
