"""Adapters: what of a backbone is tuned, and fresh values for it.

Tuned values have names of a kind: `lora_A/<layer>` (r x d_in) and `lora_B/<layer>` (d_out x r) of a low-rank adapter,
`base/<parameter>` of full fine-tuning, `prompt/<name>` of prompts. `delta_A/<layer>` and `delta_B/<layer>` are a second
low-rank term of any rank that is added with scale 1 and never trained: merged updates of the past.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fedbraid.errors import UserError
from fedbraid.models.prompts import Prompts

LORA = "lora"
DELTA = "delta"


@dataclass(frozen=True)
class Adapter:
    """What is tuned beside the head: a low-rank term on chosen layers, everything, nothing, or prompts."""

    kind: Literal["lora", "full", "none", "prompt"] = "lora"
    rank: int = 8
    alpha: float | None = None
    """LoRA's scale is alpha / rank; the default is a scale of 1."""
    dropout: float = 0.0
    layers: str | tuple[str, ...] = "all"
    """all, attention, mlp, qkv, or a list of layer name endings."""
    blocks: str = ""
    """Block numbers and ranges such as "0-3"; empty means all."""
    prompts: Prompts | None = None
    """What prompts there are, where these are tuned: the method gives them."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"adapter.rank = {self.rank}: a low-rank adapter needs a rank of at least 1")

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank


def inject(module: nn.Module, adapter: Adapter, layers: Sequence[str]) -> None:
    """Puts peft's LoRA layers in the place of the named linear layers of `module`."""
    from peft import inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):  # peft draws first values; `load` overwrites them
        inject_adapter_in_model(peft_config(adapter, layers), module, LORA)


def peft_config(adapter: Adapter, layers: Sequence[str]):
    """The adapter as a `peft.LoraConfig` on exactly these layers."""
    from peft import LoraConfig

    # peft keeps alpha as an integer by its annotation only; the scale alpha / r is a float either way.
    alpha: int = adapter.scale * adapter.rank  # type: ignore[assignment]
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=alpha,
        lora_dropout=adapter.dropout,
        target_modules=list(layers),
        bias="none",
    )


def fresh_lora(layers: Mapping[str, tuple[int, int]], rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    """`lora_A` Kaiming-uniform with a = sqrt 5 (uniform in +-1/sqrt(d_in)), `lora_B` zero, for layers (d_out, d_in)."""
    values: dict[str, Tensor] = {}
    for name, (d_out, d_in) in layers.items():
        values[f"lora_A/{name}"] = (torch.rand(rank, d_in, generator=generator) * 2 - 1) / math.sqrt(d_in)
        values[f"lora_B/{name}"] = torch.zeros(d_out, rank)
    return values


def set_delta(layer, left: Tensor, right: Tensor) -> None:
    """Gives a peft layer the untrained second term `left @ right`, (d_out x R)(R x d_in)."""
    from peft import LoraConfig

    rank = right.shape[0]
    if layer.r.get(DELTA) != rank:
        plain = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights=False)
        with torch.random.fork_rng(devices=[]):  # peft draws first values; they are overwritten below
            layer.update_layer(DELTA, rank, lora_alpha=rank, config=plain)
    layer.lora_A[DELTA].weight.data.copy_(right)
    layer.lora_B[DELTA].weight.data.copy_(left)
