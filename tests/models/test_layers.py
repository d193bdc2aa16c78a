"""The choice of layers on every family of backbones."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fedbraid.errors import UserError
from fedbraid.models.layers import choose

VIT = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "mlp": ("fc1", "fc2"),
}
BERT = {
    "attention": ("query", "key", "value", "attention.output.dense"),
    "qkv": ("query", "key", "value"),
    "mlp": ("intermediate.dense", "output.dense"),
}
TIMM = {"attention": ("qkv", "proj"), "qkv": ("qkv",), "mlp": ("fc1", "fc2")}
T5 = {"attention": ("q", "k", "v", "o"), "qkv": ("q", "k", "v"), "mlp": ("wi", "wo")}
FAMILIES = {
    "vit": VIT,
    "deit": VIT,
    "dinov2": VIT,
    "bert": BERT,
    "roberta": BERT,
    "t5": T5,
    "llama": {**VIT, "mlp": ("gate_proj", "up_proj", "down_proj")},
}
TIMM_NAMES = ("vit_tiny_patch16_224", "deit_tiny_patch16_224")


def endings(layers: dict[str, nn.Linear], known: tuple[str, ...]) -> set[str]:
    """Which of the known endings fits each layer; the longest wins."""
    found = set()
    for name in layers:
        fits = [e for e in known if name.endswith("." + e)]
        assert fits, name
        found.add(max(fits, key=len))
    return found


def check(model: nn.Module, kinds: dict[str, tuple[str, ...]], blocks: int, per_block: dict[str, int]) -> None:
    every = tuple({e for group in kinds.values() for e in group})
    for kind, expected in kinds.items():
        chosen = choose(model, kind)
        assert endings(chosen, every) == set(expected)
        assert len(chosen) == blocks * per_block[kind]
    whole = choose(model, "all")
    assert set(whole) == set(choose(model, "attention")) | set(choose(model, "mlp"))
    assert not set(choose(model, "attention")) & set(choose(model, "mlp"))
    assert not [name for name in whole if "pooler" in name or "embed" in name or "head" in name]
    assert all(whole[name] is model.get_submodule(name) for name in whole)
    order = [name for name, _ in model.named_modules() if name in whole]
    assert list(whole) == order


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "t5"])
def test_kinds_of_transformers(family: str, built: Callable[[str], nn.Module]) -> None:
    kinds = FAMILIES[family]
    check(built(family), kinds, 2, {kind: len(names) for kind, names in kinds.items()})


def test_kinds_of_t5_span_encoder_and_decoder(built: Callable[[str], nn.Module]) -> None:
    """Per block number: self-attention twice and cross-attention once; one feed-forward network on either side."""
    model = built("t5")
    check(model, T5, 2, {"attention": 12, "qkv": 9, "mlp": 4})
    assert any("EncDecAttention" in name for name in choose(model, "qkv"))


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_kinds_of_timm(name: str) -> None:
    import timm

    model = timm.create_model(name, pretrained=False, num_classes=0)
    check(model, TIMM, 12, {"attention": 2, "qkv": 1, "mlp": 2})
    assert {n.split(".")[1] for n in choose(model, "all", "1")} == {"1"}  # not 10 and 11
    assert {n.split(".")[1] for n in choose(model, "all", "9-11,2")} == {"2", "9", "10", "11"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("text", "wanted"), [("0", {0}), ("1", {1}), ("0-1", {0, 1}), (" 0 - 1 ", {0, 1}), ("1,0", {0, 1})]
)
def test_blocks(family: str, text: str, wanted: set[int], built: Callable[[str], nn.Module]) -> None:
    model = built(family)
    chosen, whole = choose(model, "all", text), choose(model, "all")
    assert {next(int(part) for part in name.split(".") if part.isdigit()) for name in chosen} == wanted
    assert len(chosen) == len(whole) * len(wanted) // 2
    assert choose(model, "all", "  ").keys() == whole.keys()


def test_layers_by_the_end_of_their_names(built: Callable[[str], nn.Module]) -> None:
    chosen = choose(built("vit"), ["fc1", "attention.o_proj"], "1")
    assert list(chosen) == ["layers.1.attention.o_proj", "layers.1.mlp.fc1"]
    with pytest.raises(UserError, match="no layer fits"):
        choose(built("vit"), ["c1"])  # a part of a name is no ending


def test_ranges_of_blocks_take_no_room(built: Callable[[str], nn.Module]) -> None:
    model = built("vit")
    assert choose(model, "all", "0-999999999").keys() == choose(model, "all").keys()


@pytest.mark.parametrize("blocks", ["a", "0-", "-1", "0;1", "1-2-3", "0,,1", "0.5", "9" * 5000])
def test_text_that_is_no_list_of_blocks(blocks: str, built: Callable[[str], nn.Module]) -> None:
    with pytest.raises(UserError, match=r"adapter\.blocks = .* is no list of block numbers"):
        choose(built("vit"), "all", blocks)


def test_an_unknown_kind(built: Callable[[str], nn.Module]) -> None:
    with pytest.raises(UserError, match=r"adapter\.layers = 'atention' is none of all, attention, mlp, qkv"):
        choose(built("vit"), "atention")


@pytest.mark.parametrize(("kind", "blocks"), [("all", "7"), (["nothing"], ""), ("all", "1-0")])
def test_where_nothing_fits_the_error_says_what_there_is(
    kind: str | list[str], blocks: str, built: Callable[[str], nn.Module]
) -> None:
    with pytest.raises(UserError, match=r"no layer fits.*2 blocks \(0 to 1\).*attention\.q_proj.*mlp\.fc2"):
        choose(built("vit"), kind, blocks)


def test_layers_outside_numbered_blocks_are_never_chosen() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2)
            self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(2, 2))])

    assert list(choose(Net())) == ["blocks.0.0"]
    with pytest.raises(UserError, match="no layer fits"):
        choose(nn.Linear(2, 2))
    assert torch.is_tensor(Net().head.weight)
