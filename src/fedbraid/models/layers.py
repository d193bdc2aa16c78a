"""Choosing the linear layers that an adapter tunes, by kind and by block.

Backbones differ in names but not in shape: numbered blocks, each with linear layers for attention and for a
feed-forward network. A layer outside the numbered blocks (pooler, patch embedding, head) is never chosen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor, nn

from fedbraid.errors import UserError

KINDS = ("all", "attention", "mlp", "qkv", "qv")

_ATTENTION = re.compile(
    r"(^|\.)(attn|attention|self_attn|self_attention|SelfAttention|EncDecAttention|crossattention)(\.|$)"
)
_QKV = re.compile(r"(^|\.)(qkv|query|key|value|q_proj|k_proj|v_proj|query_key_value|c_attn|q|k|v)$")
_QV = re.compile(r"(^|\.)(qkv|query|value|q_proj|v_proj|query_key_value|c_attn|q|v)$")
_BLOCK = re.compile(r"\.(\d+)\.")


def choose(model: nn.Module, kind: str | Sequence[str] = "all", blocks: str = "") -> dict[str, nn.Module]:
    """The chosen layers by name, in the model's order.

    `kind` is one of `KINDS` (`qkv` and `qv` fit a fused projection too), or a list of endings: `["fc1", "fc2"]`.
    `blocks` is a list of block numbers and ranges, as in `"0-3,6"`; empty means all.
    Raises `UserError` where nothing fits, with the names there are.
    """
    layers = linear_layers(model)
    wanted = _numbers(blocks)
    chosen = {
        name: layer
        for name, layer in layers.items()
        if _is(kind, name) and (wanted is None or any(_block(name) in numbers for numbers in wanted))
    }
    if not chosen:
        endings = sorted({_BLOCK.split(f".{name}")[-1] for name in layers})
        count = len({_block(name) for name in layers})
        raise UserError(
            f"no layer fits adapter.layers = {kind!r} with adapter.blocks = {blocks!r}; the backbone has {count} "
            f"blocks (0 to {count - 1}) with the linear layers {', '.join(endings) or '(none)'}"
        )
    return chosen


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """All linear layers of the numbered blocks by name, in the model's order; empty for a model without any.

    GPT-2's `Conv1D` is a linear layer whose weight is stored transposed.
    """
    return {name: module for name, module in model.named_modules() if _linear(module) and _block(name) is not None}


def shape_of(layer: nn.Module) -> tuple[int, int]:
    """(d_out, d_in) of a linear layer."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    d_in, d_out = layer.get_parameter("weight").shape
    return d_out, d_in


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a linear layer as (d_out, d_in): the parameter itself, or a view of a `Conv1D`'s."""
    weight = layer.get_parameter("weight")
    return weight if isinstance(layer, nn.Linear) else weight.T


def are_transposed(layers: Sequence[nn.Module]) -> bool:
    """Whether these linear layers are GPT-2's `Conv1D`; `UserError` where some are and some are not."""
    kinds = {isinstance(layer, nn.Linear) for layer in layers}
    if len(kinds) > 1:
        raise UserError("the adapter's layers are partly Conv1D and partly Linear; choose one kind by adapter.layers")
    return kinds == {False}


def ends_feed_forward(name: str, shape: tuple[int, int]) -> bool:
    """Whether a layer (d_out, d_in) is the last one of a feed-forward network: it reads more than it writes."""
    return not _ATTENTION.search(name) and shape[0] < shape[1]


def _linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (type(module).__name__ == "Conv1D" and hasattr(module, "nf"))


def _is(kind: str | Sequence[str], name: str) -> bool:
    if not isinstance(kind, str):
        return any(name == ending or name.endswith("." + ending) for ending in kind)
    if kind == "all":
        return True
    if kind == "attention":
        return bool(_ATTENTION.search(name))
    if kind == "qkv":
        return bool(_ATTENTION.search(name)) and bool(_QKV.search(name))
    if kind == "qv":
        return bool(_ATTENTION.search(name)) and bool(_QV.search(name))
    if kind == "mlp":
        return not _ATTENTION.search(name)
    raise UserError(f"adapter.layers = {kind!r} is none of {', '.join(KINDS)}; or give a list of layer name endings")


def _block(name: str) -> int | None:
    """The number of the block that a layer belongs to: the first number in its name."""
    found = _BLOCK.search(f".{name}")
    return int(found.group(1)) if found else None


def _numbers(text: str) -> list[range] | None:
    """`"0-3,6"` as ranges, which take no room however long they are; None for all."""
    if not text.strip():
        return None
    numbers: list[range] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part)
        if not found:
            raise UserError(
                f"adapter.blocks = {text!r} is no list of block numbers; write for example '0-3' or '0,2,5'"
            )
        first = int(found.group(1))
        numbers.append(range(first, int(found.group(2) or first) + 1))
    return numbers
