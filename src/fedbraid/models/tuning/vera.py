"""VeRA: a low-rank term of which two vectors are trained, between random matrices that nobody sends.

    y = W0 x + b∘(B (d∘(A x))) + M A x

    vera                (seed of A, seed of B, rank), int64: everyone draws A (r x d_in) and B (d_out x r) from it
    vera_b/<layer>      trained: b (d_out), at first 0
    vera_d/<layer>      trained: d (r), at first 0.1
    vera_M/<layer>      merged updates over the same A, M (d_out x r), never trained

Kopiczko et al., VeRA: Vector-based Random Matrix Adaptation, ICLR 2024: Kaiming-uniform matrices; 0.1 is what the
paper compares in table 6 and peft has as its default. Layers of one width share a matrix; in peft all layers share the
leading part of the largest one, which has the same law.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedbraid.algebra import Tensors
from fedbraid.errors import UserError
from fedbraid.models.adapters import Adapter
from fedbraid.models.layers import choose, shape_of
from fedbraid.models.tuning.base import check, held, place

FIRST_D = 0.1


class Vera:
    """VeRA's term on each of the chosen linear layers."""

    kinds: tuple[str, ...] = ("vera", "vera_b", "vera_d", "vera_M")

    def __init__(self, module: nn.Module, adapter: Adapter) -> None:
        chosen = choose(module, adapter.layers, adapter.blocks)
        self.layers = {name: shape_of(layer) for name, layer in chosen.items()}
        self._rank, self._dropout = adapter.rank, adapter.dropout
        self._device = next(module.parameters()).device
        self._values: dict[str, nn.Parameter] = {}
        self._seeds: Tensor | None = None
        self._drawn: dict[str, Tensor] = {}
        self._places = {"vera": place(3)}
        for name, (d_out, _) in self.layers.items():
            self._places |= {f"vera_b/{name}": place(d_out), f"vera_d/{name}": place(self._rank)}
            self._places[f"vera_M/{name}"] = place(d_out, self._rank)
        for name, layer in chosen.items():
            layer.register_forward_hook(self._add_term(name))

    def fresh(self, generator: torch.Generator) -> dict[str, Tensor]:
        values = {"vera": seeds(self._rank, generator)}
        for name, (d_out, _) in self.layers.items():
            values[f"vera_b/{name}"] = torch.zeros(d_out)
            values[f"vera_d/{name}"] = torch.full((self._rank,), FIRST_D)
        return values

    def load(self, tensors: Tensors) -> None:
        """A term whose vectors, or whose seeds, are missing is inactive."""
        check(tensors, self._places, self.kinds)
        drawn = tensors.get("vera")
        self._values = {} if drawn is None else held(tensors, self.kinds[1:], self._device)
        if drawn is not None and (self._seeds is None or not torch.equal(drawn, self._seeds)):
            self._draw(drawn)

    def loaded(self) -> dict[str, Tensor]:
        return dict(self._values)

    def _draw(self, drawn: Tensor) -> None:
        """The matrices of these seeds; layers of one width share them."""
        if drawn[2] != self._rank:
            raise UserError(f"'vera' has rank {drawn[2]}, the model's adapter has rank {self._rank}")
        wide = {d_in: right_matrix(drawn, d_in).to(self._device) for _, d_in in self.layers.values()}
        tall = {d_out: left_matrix(drawn, d_out).to(self._device) for d_out, _ in self.layers.values()}
        for name, (d_out, d_in) in self.layers.items():
            self._drawn |= {f"A/{name}": wide[d_in], f"B/{name}": tall[d_out]}
        self._seeds = drawn.clone()

    def _add_term(self, name: str):
        def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            b, d, merged = (self._values.get(f"{kind}/{name}") for kind in self.kinds[1:])
            if b is None and merged is None:
                return None
            x = F.dropout(inputs[0].float(), self._dropout, layer.training)
            projected = F.linear(x, self._drawn[f"A/{name}"])
            if b is not None and d is not None:
                output = output + (F.linear(projected * d, self._drawn[f"B/{name}"]) * b).to(output.dtype)
            return output if merged is None else output + F.linear(projected, merged).to(output.dtype)

        return add


def seeds(rank: int, generator: torch.Generator) -> Tensor:
    """The shared value `vera`: (seed of A, seed of B, rank), int64."""
    drawn = torch.randint(2**62, (2,), generator=generator)
    return torch.cat([drawn, torch.tensor([rank])])


def right_matrix(drawn: Tensor, d_in: int) -> Tensor:
    """A, (r x d_in), as `seeds` names it."""
    seed, _, rank = drawn.tolist()
    return _kaiming_uniform(rank, d_in, seed)


def left_matrix(drawn: Tensor, d_out: int) -> Tensor:
    """B, (d_out x r), as `seeds` names it."""
    _, seed, rank = drawn.tolist()
    return _kaiming_uniform(d_out, rank, seed)


def left_factor(drawn: Tensor, b: Tensor, d: Tensor) -> Tensor:
    """diag(b) B diag(d), (d_out x r): the update is this times A."""
    return b[:, None] * left_matrix(drawn, len(b)).to(b.dtype) * d


def _kaiming_uniform(rows: int, columns: int, seed: int) -> Tensor:
    """Uniform in +-sqrt(6 / columns)."""
    draws = torch.Generator().manual_seed(seed)
    return (torch.rand(rows, columns, generator=draws) * 2 - 1) * math.sqrt(6 / columns)
