"""Prompts inside a vision transformer, whatever library it comes from and without a line of its attention written anew.

Tokens join the sequence before the first block: at its end, so that the class token stays the first. A prefix joins one
block's attention `softmax(q [p_k; k]^T / sqrt d) [p_v; v]`: both transformers and timm compute it by torch's
`scaled_dot_product_attention`, and while the block runs that call is answered with the prefix in front of k and v.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fedbraid.errors import UserError
from fedbraid.models.layers import linear_layers
from fedbraid.models.prompts import Chosen

_BLOCK = re.compile(r"(?:[^.]+\.)*?\d+(?=\.)")
_CHOOSE = "choose a plain vision transformer as backbone, whose blocks read (images, tokens, width)"


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The numbered blocks of a transformer in their order; empty where the module is no single row of blocks."""
    names = list(dict.fromkeys(found.group() for name in linear_layers(module) if (found := _BLOCK.match(name))))
    row = names[0].rpartition(".")[0] if names else ""
    plain = names == [f"{row}.{number}" for number in range(len(names))]
    return [module.get_submodule(name) for name in names] if plain else []


@contextmanager
def injected(blocks: Sequence[nn.Module], chosen: Chosen) -> Iterator[None]:
    """Forward passes inside run with what was chosen; `UserError` where a block cannot take it."""
    attention = _Attention()
    with ExitStack() as stack:
        if chosen.tokens is not None:
            stack.enter_context(blocks[0].register_forward_pre_hook(_append(chosen.tokens)))
        for number, prefix in chosen.prefixes.items():
            stack.enter_context(blocks[number].register_forward_pre_hook(attention.offer(prefix)))
            stack.enter_context(blocks[number].register_forward_hook(attention.taken(number)))
        stack.enter_context(attention)
        yield


def _append(tokens: Tensor):
    def hook(_block: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        _check_sequence(inputs[0], tokens.shape[-1])
        return (torch.cat([inputs[0], tokens.to(inputs[0].dtype)], dim=1), *inputs[1:])

    return hook


class _Attention(TorchFunctionMode):
    """Puts the prefix on offer in front of the keys and values of the next attention."""

    _prefix: Tensor | None = None

    def offer(self, prefix: Tensor):
        """A hook before a block."""

        def hook(_block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            _check_sequence(inputs[0], prefix.shape[-1])
            self._prefix = prefix

        return hook

    def taken(self, number: int):
        """A hook after a block: a prompt that had no effect is an error."""

        def hook(_block: nn.Module, _inputs: object, _output: object) -> None:
            if self._prefix is not None:
                raise UserError(
                    f"block {number} of the backbone took no prompt: its attention is not torch's "
                    "scaled_dot_product_attention. Remove another choice of attention from the backbone's config.json, "
                    "and TIMM_FUSED_ATTN from the environment"
                )

        return hook

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention and self._prefix is not None:
            prefix, self._prefix = self._prefix, None
            return self._attend(prefix, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attend(self, prefix: Tensor, query: Tensor, key: Tensor, value: Tensor, **kwargs) -> Tensor:
        """Attention, (n, heads, tokens, size), with every head's part of the prefix, (n, 2, length, heads * size)."""
        heads, size, width = key.shape[1], key.shape[3], prefix.shape[-1]
        biased = kwargs.get("attn_mask") is not None
        if heads * size != width or biased:
            attention = f"an attention of {heads} heads of {size}{' with a bias' if biased else ''}"
            raise UserError(f"prompts of width {width} do not fit {attention}; {_CHOOSE}")
        keys, values = prefix.to(key.dtype).unflatten(-1, (heads, size)).transpose(2, 3).unbind(1)
        key, value = torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)
        return F.scaled_dot_product_attention(query, key, value, **kwargs)


def _check_sequence(x: Tensor, width: int) -> None:
    if x.ndim != 3 or x.shape[-1] != width:
        raise UserError(f"prompts of width {width} do not fit a block that reads {tuple(x.shape)}; {_CHOOSE}")
