"""A low-rank adapter over peft, with what has been merged before it beside the frozen weight.

    y = W0 x + s B A x + delta_B delta_A x + dense x

    lora_A/<layer>, lora_B/<layer>      trained: A (r x d_in), B (d_out x r), of any rank up to the adapter's
    scale                               s, where it is not the adapter's own
    delta_A/<layer>, delta_B/<layer>    merged updates of any rank, never trained
    dense/<layer>                       the same as a matrix (d_out x d_in), where that is smaller than its factors

What was merged is fp32 and never added to W0: a small change would be lost in the rounding of a bf16 or a quantised
weight, and would be rounded with it under bf16 products.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedbraid.algebra import Tensors, select
from fedbraid.errors import UserError
from fedbraid.models import adapters
from fedbraid.models.adapters import DELTA, LORA, Adapter
from fedbraid.models.layers import choose, shape_of
from fedbraid.models.tuning.base import check


class LowRank:
    """peft's LoRA layers in the place of the chosen linear layers."""

    kinds: tuple[str, ...] = ("lora_A", "lora_B", "delta_A", "delta_B", "dense", "scale")

    def __init__(self, module: nn.Module, adapter: Adapter) -> None:
        chosen = choose(module, adapter.layers, adapter.blocks)
        self.layers = {name: shape_of(layer) for name, layer in chosen.items()}
        self._adapter = adapter
        widest = max(map(max, self.layers.values()))
        if adapter.rank > widest:
            raise UserError(
                f"adapter.rank = {adapter.rank}: the widest layer has {widest} dimensions; take a lower rank"
            )
        adapters.inject(module, adapter, list(chosen))
        self._layers = {name: module.get_submodule(name) for name in chosen}
        self._dense: dict[str, Tensor] = {}
        for name, layer in self._layers.items():
            layer.register_forward_hook(self._add_dense(name))

    def fresh(self, generator: torch.Generator) -> dict[str, Tensor]:
        return adapters.fresh_lora(self.layers, self._adapter.rank, generator)

    def load(self, tensors: Tensors) -> None:
        """A low-rank term whose tensors are missing is inactive."""
        trained = {key: value for key, value in tensors.items() if key.startswith(("lora_A/", "lora_B/"))}
        if trained:
            self._set_rank(trained)
        check(trained, self.loaded(), self.kinds)
        active = [LORA] if any(key.startswith("lora_B/") for key in tensors) else []
        missing = sorted(self.loaded().keys() - trained.keys()) if active else []
        if missing:
            raise UserError(f"{missing[0]!r} is missing; the tensors are of another adapter or backbone")
        scale = tensors.get("scale")
        with torch.no_grad():
            for name, layer in self._layers.items():
                if LORA in active:
                    layer.lora_A[LORA].weight.copy_(tensors[f"lora_A/{name}"])  # type: ignore[index]
                    layer.lora_B[LORA].weight.copy_(tensors[f"lora_B/{name}"])  # type: ignore[index]
                    layer.scaling[LORA] = self._adapter.scale if scale is None else scale.item()  # type: ignore[index]
                merged = tensors.get(f"delta_B/{name}")
                if merged is not None:
                    adapters.set_delta(layer, merged, self._right_of(name, merged, tensors))
                terms = [*active, *([DELTA] if merged is not None else [])]
                layer.set_adapter(terms, inference_mode=True)  # type: ignore[operator]
        self._load_dense(select(tensors, "dense"))

    def loaded(self) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for name, layer in self._layers.items():
            values[f"lora_A/{name}"] = layer.lora_A[LORA].weight  # type: ignore[index]
            values[f"lora_B/{name}"] = layer.lora_B[LORA].weight  # type: ignore[index]
        return values

    def _set_rank(self, trained: Tensors) -> None:
        """Gives the layers the rank of the first tensor, where it is not larger than the adapter's."""
        key, value = next(iter(trained.items()))
        rank = value.shape[0 if key.startswith("lora_A/") else -1]
        if 0 < rank <= self._adapter.rank:
            for layer in self._layers.values():
                adapters.set_rank(layer, LORA, rank, dropout=self._adapter.dropout)

    def _right_of(self, name: str, left: Tensor, tensors: Tensors) -> Tensor:
        """The right factor of a merged update; `UserError` where both do not make one of this layer."""
        right, (d_out, d_in) = tensors.get(f"delta_A/{name}"), self.layers[name]
        if right is None or left.shape != (d_out, len(right) if right.ndim else 0) or right.shape[1:] != (d_in,):
            raise UserError(
                f"'delta_B/{name}' and 'delta_A/{name}' are no update of {d_out} x {d_in}; send both factors"
            )
        return right

    def _load_dense(self, values: Tensors) -> None:
        for name, value in values.items():
            if name not in self.layers or self.layers[name] != tuple(value.shape):
                raise UserError(f"the model has no place for 'dense/{name}' of shape {tuple(value.shape)}")
        device = next(iter(self._layers.values())).lora_A[LORA].weight.device  # type: ignore[index]
        self._dense = {name: value.to(device, torch.float32) for name, value in values.items()}

    def _add_dense(self, name: str):
        def add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            dense = self._dense.get(name)
            if dense is None:
                return None
            return output + F.linear(inputs[0].to(dense.dtype), dense).to(output.dtype)

        return add
