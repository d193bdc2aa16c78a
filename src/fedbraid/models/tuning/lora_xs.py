"""LoRA-XS: a low-rank term of which the small middle is trained, between matrices that the server has set.

    y = W0 x + s B R A x

    core_B/<layer>, core_A/<layer>      set once: B (d_out x r), A (r x d_in)
    core_R/<layer>                      trained: R (r x r)
    weight/<layer>                      W0, to be read, or asked for its gradient

Bałazy et al., LoRA-XS: Low-Rank Adaptation with Extremely Small Number of Parameters, 2024 (arXiv 2405.17604): with the
leading singular triplets of W0, B = U_r and A = S_r V_r^T; R is normal with standard deviation 1e-5. Every client could
compute the triplets, but to the last bit only on one kind of machine; so the server does, and sends them once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedbraid.algebra import Tensors
from fedbraid.errors import UserError
from fedbraid.linalg import leading_triplets
from fedbraid.models.adapters import Adapter
from fedbraid.models.layers import choose, shape_of
from fedbraid.models.tuning.base import check, frozen_weights, held, place

FIRST_R = 1e-5


class LoRAXS:
    """LoRA-XS's term on each of the chosen linear layers."""

    kinds: tuple[str, ...] = ("core_B", "core_R", "core_A")

    def __init__(self, module: nn.Module, adapter: Adapter) -> None:
        self._layers = choose(module, adapter.layers, adapter.blocks)
        self.layers = {name: shape_of(layer) for name, layer in self._layers.items()}
        self._adapter, rank = adapter, adapter.rank
        self._device = next(module.parameters()).device
        self._frame: dict[str, Tensor] = {}
        self._values: dict[str, nn.Parameter] = {}
        self._places: dict[str, Tensor] = {}
        for name, (d_out, d_in) in self.layers.items():
            if rank > min(d_out, d_in):
                raise UserError(f"adapter.rank = {rank}: {name} is {d_out} x {d_in} and has no so many directions")
            self._places |= {f"core_B/{name}": place(d_out, rank), f"core_R/{name}": place(rank, rank)}
            self._places[f"core_A/{name}"] = place(rank, d_in)
        for name, layer in self._layers.items():
            layer.register_forward_hook(self._add_term(name))

    def fresh(self, generator: torch.Generator) -> dict[str, Tensor]:
        """`UserError` where the weights are quantised."""
        self._frame = self._frame or self._triplets()
        rank = self._adapter.rank
        cores = {f"core_R/{name}": torch.randn(rank, rank, generator=generator) * FIRST_R for name in self.layers}
        return self._frame | cores

    def load(self, tensors: Tensors) -> None:
        """A term of which one of the three matrices is missing is inactive."""
        check(tensors, self._places, self.kinds)
        self._values = held(tensors, self.kinds, self._device)

    def loaded(self) -> dict[str, Tensor]:
        return frozen_weights(self._layers) | self._values

    def _triplets(self) -> dict[str, Tensor]:
        """B and A of every layer."""
        weights = frozen_weights(self._layers)
        values: dict[str, Tensor] = {}
        for name in self.layers:
            if f"weight/{name}" not in weights:
                raise UserError(f"{name} is quantised and has no singular vectors at hand; load the backbone as it is")
            left, sizes, right = leading_triplets(weights[f"weight/{name}"].detach().float(), self._adapter.rank)
            values[f"core_B/{name}"] = left.cpu().contiguous()
            values[f"core_A/{name}"] = (sizes[:, None] * right).cpu()
        return values

    def _add_term(self, name: str):
        def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            left, core, right = (self._values.get(f"{kind}/{name}") for kind in self.kinds)
            if left is None or core is None or right is None:
                return None
            x = F.dropout(inputs[0].float(), self._adapter.dropout, layer.training)
            term = F.linear(F.linear(F.linear(x, right), core), left) * self._adapter.scale
            return output + term.to(output.dtype)

        return add
