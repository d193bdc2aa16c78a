"""Adapters: what of a backbone is tuned, and fresh values for it.

Tuned values have names of a kind: `lora_A/<layer>` (r x d_in) and `lora_B/<layer>` (d_out x r) of a low-rank adapter,
`scaling/<layer>` of (IA)^3, `vera_b/<layer>` and `vera_d/<layer>` of VeRA, `core_R/<layer>` (r x r) of LoRA-XS,
`base/<parameter>` of full fine-tuning, `prompt/<name>` of prompts. What each kind does in a backbone stands in
`models.tuning`, one file a kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from fedbraid.errors import UserError
from fedbraid.models.layers import are_transposed
from fedbraid.models.prompts import Prompts

LORA = "lora"
DELTA = "delta"


@dataclass(frozen=True)
class Adapter:
    """What is tuned beside the head: a term or a scaling of chosen layers, everything, nothing, or prompts."""

    kind: Literal["lora", "vera", "lora_xs", "ia3", "full", "none", "prompt"] = "lora"
    rank: int = 8
    alpha: float | None = None
    """The scale of LoRA and LoRA-XS is alpha / rank; the default is a scale of 1."""
    dropout: float = 0.0
    layers: str | tuple[str, ...] = "all"
    """all, attention, mlp, qkv, or a list of layer name endings."""
    blocks: str = ""
    """Block numbers and ranges such as "0-3"; empty means all."""
    prompts: Prompts | None = None
    """What prompts there are, where these are tuned: the method gives them."""
    scaled: Literal["output", "input", "peft"] = "output"
    """What (IA)^3 scales of a layer; peft: the input of a feed-forward network's last layer, else the output."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"adapter.rank = {self.rank}: a low-rank adapter needs a rank of at least 1")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise UserError(f"adapter.alpha = {self.alpha:g}: it must be above 0; remove it for a scale of 1")
        if self.kind in ("ia3", "vera") and self.alpha is not None:
            raise UserError(f"adapter.alpha = {self.alpha:g}: adapter.kind = {self.kind!r} has no scale; remove it")
        if self.kind == "ia3" and self.dropout:
            raise UserError(f"adapter.dropout = {self.dropout:g}: (IA)^3 has no term to drop inputs of; remove it")

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def at_rank(self, rank: int) -> Adapter:
        """The same adapter at another rank."""
        return replace(self, rank=rank)


def inject(module: nn.Module, adapter: Adapter, layers: Sequence[str]) -> None:
    """Puts peft's LoRA layers in the place of the named linear layers of `module`."""
    from peft import inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):  # peft draws first values; `load` overwrites them
        transposed = are_transposed([module.get_submodule(name) for name in layers])
        inject_adapter_in_model(peft_config(adapter, layers, transposed=transposed), module, LORA)
    for name in layers:
        layer = module.get_submodule(name).train(module.training)
        _in_fp32(layer, LORA)


def peft_config(adapter: Adapter, layers: Sequence[str], *, transposed: bool = False):
    """The adapter as a `peft.LoraConfig` on exactly these layers; `transposed` where they are GPT-2's `Conv1D`."""
    from peft import LoraConfig

    # peft keeps alpha as an integer by its annotation only; the scale alpha / r is a float either way.
    alpha: int = adapter.scale * adapter.rank  # type: ignore[assignment]
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=alpha,
        lora_dropout=adapter.dropout,
        target_modules=list(layers),
        bias="none",
        fan_in_fan_out=transposed,
    )


def only(name: str) -> str:
    """The key of peft's rank and alpha patterns that this layer's name alone matches; a plain name also matches names
    that end like it."""
    return "^" + name.replace(".", r"\.")


def fresh_lora(layers: Mapping[str, tuple[int, int]], rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    """`lora_A` Kaiming-uniform with a = sqrt 5 (uniform in +-1/sqrt(d_in)), `lora_B` zero, for layers (d_out, d_in)."""
    values: dict[str, Tensor] = {}
    for name, (d_out, d_in) in layers.items():
        values[f"lora_A/{name}"] = (torch.rand(rank, d_in, generator=generator) * 2 - 1) / math.sqrt(d_in)
        values[f"lora_B/{name}"] = torch.zeros(d_out, rank)
    return values


def set_delta(layer, left: Tensor, right: Tensor) -> None:
    """Gives a peft layer the untrained second term `left @ right`, (d_out x R)(R x d_in)."""
    set_rank(layer, DELTA, right.shape[0])
    layer.scaling[DELTA] = 1.0
    layer.lora_A[DELTA].weight.data.copy_(right)
    layer.lora_B[DELTA].weight.data.copy_(left)


def set_rank(layer, name: str, rank: int, *, dropout: float = 0.0) -> None:
    """Gives a peft layer's term of that name this rank; its values are those of before only where the rank is."""
    from peft import LoraConfig

    if layer.r.get(name) != rank:
        plain = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=dropout, init_lora_weights=False)
        with torch.random.fork_rng(devices=[]):  # peft draws first values; they are overwritten by the caller
            layer.update_layer(name, rank, lora_alpha=rank, config=plain)
        layer.train(layer.training)  # also what is new in it
        _in_fp32(layer, name)


def _in_fp32(layer, name: str) -> None:
    """Factors are fp32 whatever the frozen weight is; peft gives them its precision."""
    layer.lora_A[name].float()
    layer.lora_B[name].float()
