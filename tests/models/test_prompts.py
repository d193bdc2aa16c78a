"""Prompts inside vision transformers of both libraries, against the same attention computed step by step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedbraid.algebra import Tensors
from fedbraid.core import ImageInput
from fedbraid.errors import UserError
from fedbraid.models import AdaptedModel, Adapter, Backbone, load_backbone
from fedbraid.models.injection import blocks_of, injected
from fedbraid.models.prompts import Chosen, existing, rows
from fedbraid.models.timm import _pool, _tokens

Vit = Callable[[str], Backbone]
FAMILIES = ("vit", "deit", "dinov2", "timm")
SAMPLES = 3


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def timm_vit(**options: object) -> Backbone:
    import timm

    torch.manual_seed(0)
    module = timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, num_classes=0, img_size=32, depth=2, embed_dim=48, **options
    )
    return Backbone("timm", module.eval(), ImageInput(32), 48, _pool, _tokens)


@pytest.fixture(scope="module")
def vit(saved: Callable[[str], Path]) -> Vit:
    return lambda family: timm_vit() if family == "timm" else load_backbone(str(saved(family)))


def images(backbone: Backbone, count: int = SAMPLES) -> dict[str, Tensor]:
    size = backbone.input.size  # type: ignore[union-attr]
    return {"pixel_values": normal(count, 3, size, size, seed=1)}


def attentions(block: nn.Module) -> tuple[nn.Module, nn.Module, int]:
    """Of a block: the attention, its last projection, and the number of heads."""
    found = block.attn if hasattr(block, "attn") else block.attention
    last = found.proj if hasattr(found, "proj") else found.o_proj
    return found, last, getattr(found, "num_heads", 0) or found.num_attention_heads


def q_k_v(attention: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of all heads side by side, (n, tokens, width) each."""
    if hasattr(attention, "qkv"):
        return attention.qkv(x).chunk(3, dim=-1)
    return attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)


def by_hand(attention: nn.Module, heads: int, x: Tensor, prefix: Tensor) -> Tensor:
    """softmax(q [p_k; k]^T / sqrt d) [p_v; v], image by image and head by head."""
    q, k, v = q_k_v(attention, x)
    size = x.shape[-1] // heads
    out = torch.empty_like(q)
    for image in range(len(x)):
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            keys = torch.cat([prefix[image, 0, :, part], k[image, :, part]]).double()
            values = torch.cat([prefix[image, 1, :, part], v[image, :, part]]).double()
            scores = q[image, :, part].double() @ keys.T / size**0.5
            out[image, :, part] = (scores.exp() / scores.exp().sum(1, keepdim=True) @ values).float()
    return out


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_joins_keys_and_values(family: str, vit: Vit) -> None:
    backbone = vit(family)
    blocks = blocks_of(backbone.module)
    assert len(blocks) == 2
    attention, last, heads = attentions(blocks[1])
    assert getattr(attention, "fused_attn", True)
    prefix = normal(SAMPLES, 2, 5, backbone.width)
    seen: dict[str, Tensor] = {}
    attention.register_forward_pre_hook(lambda _m, x: seen.update(x=x[0]))
    last.register_forward_pre_hook(lambda _m, x: seen.update(out=x[0]))
    with torch.no_grad():
        plain = backbone.pool(backbone.module, images(backbone))
        before = seen["x"]
        with injected(blocks, Chosen(torch.zeros(()), prefixes={1: prefix})):
            steered = backbone.pool(backbone.module, images(backbone))
        assert torch.equal(seen["x"], before)  # block 0 has no prefix
        assert torch.allclose(seen["out"], by_hand(attention, heads, seen["x"], prefix), atol=1e-5)
        assert (steered - plain).abs().max() > 1e-3
        assert torch.equal(backbone.pool(backbone.module, images(backbone)), plain)  # nothing stays behind


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_run_through_all_blocks_behind_the_sequence(family: str, vit: Vit) -> None:
    backbone = vit(family)
    blocks = blocks_of(backbone.module)
    tokens = normal(SAMPLES, 4, backbone.width)
    norm = backbone.module.norm if family == "timm" else backbone.module.layernorm
    seen: list[Tensor] = []
    handle = blocks[0].register_forward_pre_hook(lambda _m, x: seen.append(x[0]))
    with torch.no_grad():
        plain = backbone.tokens(backbone.module, images(backbone))
        handle.remove()
        with injected(blocks, Chosen(torch.zeros(()), tokens=tokens)):
            found = backbone.tokens(backbone.module, images(backbone))
        hidden = torch.cat([seen[0], tokens], dim=1)
        for block in blocks:
            hidden = block(hidden)
        assert torch.allclose(found, norm(hidden), atol=1e-5)
    assert found.shape == (SAMPLES, plain.shape[1] + 4, backbone.width)
    assert (found[:, 0] - plain[:, 0]).abs().max() > 1e-3


class Attending(nn.Module):
    """A block of attention alone, with a scale of its own."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (2, 3)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads, **self.options).transpose(1, 2).flatten(2)  # type: ignore[arg-type]


def test_what_else_attention_is_told_stays() -> None:
    x, prefix = normal(2, 4, 6), normal(2, 2, 3, 6, seed=1)
    block, chosen = Attending(scale=0.3), Chosen(torch.zeros(()), prefixes={0: prefix})
    with injected([block], chosen):
        found = block(x)
    for part in (slice(0, 3), slice(3, 6)):
        keys = torch.cat([prefix[:, 0, :, part], x[..., part]], dim=1)
        values = torch.cat([prefix[:, 1, :, part], x[..., part]], dim=1)
        weights = (0.3 * x[..., part] @ keys.transpose(1, 2)).softmax(-1)
        assert torch.allclose(found[..., part], weights @ values, atol=1e-6)
    block.options["dropout_p"] = 0.9
    with injected([block], chosen):
        assert (block(x) == 0).float().mean() > 0.2


@pytest.mark.parametrize("family", ["vit", "timm"])
def test_attention_that_takes_no_prefix_is_an_error(family: str, saved: Callable[[str], Path]) -> None:
    backbone = timm_vit() if family == "timm" else load_backbone(str(saved(family)))
    blocks = blocks_of(backbone.module)
    if family == "timm":
        blocks[1].attn.fused_attn = False
    else:
        backbone.module.set_attn_implementation("eager")
    chosen = Chosen(torch.zeros(()), prefixes={1: normal(SAMPLES, 2, 5, backbone.width)})
    with pytest.raises(UserError, match="block 1 of the backbone took no prompt"), injected(blocks, chosen):
        backbone.pool(backbone.module, images(backbone))
    with torch.no_grad():
        assert torch.isfinite(backbone.pool(backbone.module, images(backbone))).all()


@pytest.mark.parametrize(
    ("x", "options", "error"),
    [
        (normal(2, 2, 2, 6), {}, r"do not fit a block that reads \(2, 2, 2, 6\); choose a plain vision transformer"),
        (
            normal(2, 4, 6),
            {"attn_mask": torch.zeros(4, 4)},
            "prompts of width 6 do not fit an attention of 2 heads of 3 with a bias",
        ),
    ],
)
def test_blocks_of_another_kind_are_an_error(x: Tensor, options: dict[str, Tensor], error: str) -> None:
    block = Attending(**options)
    chosen = Chosen(torch.zeros(()), prefixes={0: normal(2, 2, 3, 6)})
    with pytest.raises(UserError, match=error), injected([block], chosen):
        block(x)


@dataclass(frozen=True)
class Steered:
    """One token and one prefix, both scaled by what the plain model sees."""

    def shapes(self, width: int, depth: int) -> Mapping[str, tuple[int, ...]]:
        return {"prefix": (2, 3, width), "key": (width,)}

    def choose(self, values: Tensors, query: Tensor) -> Chosen:
        near = query @ values["key"]
        return Chosen(near.square().mean(), prefixes={0: near[:, None, None, None] * values["prefix"]})


STEERED = Adapter(kind="prompt", prompts=Steered())


@pytest.mark.parametrize("family", ["dinov2", "timm"])
def test_without_prompts_it_is_the_plain_backbone(family: str, vit: Vit) -> None:
    model = AdaptedModel(vit(family), STEERED)
    inputs = images(model.backbone)
    with torch.no_grad():
        plain = model.backbone.pool(model.backbone.module, inputs)
        assert torch.equal(model.features(inputs), plain)
        assert model.penalty() == 0
        fresh = model.fresh(seeded(0))
        assert {key: value.shape for key, value in fresh.items()} == {
            "prompt/prefix": (2, 3, model.width),
            "prompt/key": (model.width,),
        }
        model.load(fresh)
        assert (model.features(inputs) - plain).abs().max() > 1e-4
        assert torch.allclose(model.penalty(), (plain @ fresh["prompt/key"]).square().mean())
        assert model.values(("prompt",)).keys() == fresh.keys()
        model.load({})
        assert torch.equal(model.features(inputs), plain)
        assert model.penalty() == 0


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["vit", "timm"])
def test_gradients_reach_the_prompts_and_nothing_else(family: str, precision: torch.dtype, vit: Vit) -> None:
    model = AdaptedModel(vit(family), STEERED)
    model.load(model.fresh(seeded(0)) | {"head/0": normal(2, model.width + 1)})
    parameters = model.parameters(("prompt/prefix", "head/0"))
    model.train()
    assert not model.backbone.module.training
    with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
        features = model.features(images(model.backbone))
        model.logits(features.float()).square().sum().backward()
    assert parameters.keys() == {"prompt/prefix", "head/0"}
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in parameters.values())
    assert all(p.grad is None for p in model.backbone.module.parameters())
    assert model.parameters(("prompt",)).keys() == {"prompt/prefix", "prompt/key"}
    model.features(images(model.backbone)).sum().backward()
    assert model.parameters(("prompt",))["prompt/key"].grad is not None


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_text_model_takes_no_prompts(family: str, saved: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match=r"Steered needs a vision transformer, and backbone '.*' is none"):
        AdaptedModel(load_backbone(str(saved(family))), STEERED)


def test_a_convolution_takes_no_prompts() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 4))
    backbone = Backbone("net", net, ImageInput(2), 4, lambda module, x: module(x["pixel_values"]))
    with pytest.raises(UserError, match="Steered needs a vision transformer, and backbone 'net' is none"):
        AdaptedModel(backbone, STEERED)


def test_values_that_do_not_fit(vit: Vit) -> None:
    with pytest.raises(UserError, match=r"adapter\.kind = 'prompt' says not which"):
        AdaptedModel(vit("timm"), Adapter(kind="prompt"))
    model = AdaptedModel(vit("timm"), STEERED)
    for value in ({"prompt/other": torch.zeros(48)}, {"prompt/key": torch.zeros(47)}):
        with pytest.raises(UserError, match=r"the model has no place for 'prompt/(other|key)' of shape"):
            model.load(value)
    with pytest.raises(UserError, match="no place for 'prompt/key'"):
        AdaptedModel(vit("timm"), Adapter(kind="none")).load({"prompt/key": torch.zeros(48)})
    with pytest.raises(UserError, match=r"method\.blocks = \(4, 7\): the backbone has only the blocks 0 to 3"):
        existing((4, 7), 4, "blocks")


def test_rows_are_those_that_are_picked() -> None:
    values, picked = normal(4, 2, 3), torch.tensor([[3, 0], [1, 1]])
    assert torch.equal(rows(picked, values), values[picked])
    assert torch.equal(rows(picked[0], values), values[picked[0]])
