"""The model that clients train and evaluate: backbone, adapter and head, with values loaded from flat tensors.

One such model serves any number of clients: whatever a client tunes is loaded before its work and read out after it.
The backbone's own weights are touched by full fine-tuning only, and then they are values like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from fedbraid.algebra import Tensors, prefix, select
from fedbraid.core import ImageInput, TextInput
from fedbraid.errors import UserError
from fedbraid.models import adapters, heads
from fedbraid.models.adapters import DELTA, LORA, Adapter
from fedbraid.models.backbones import Backbone
from fedbraid.models.layers import choose, linear_layers
from fedbraid.models.prompted import Prompted
from fedbraid.models.random_features import draw_projection, random_features

KINDS = ("lora_A", "lora_B", "delta_A", "delta_B", "base", "prompt", "head", "projection")


class AdaptedModel:
    """A backbone with an adapter injected and a head that grows. It owns the backbone's module.

    Under `precision` bf16 the backbone multiplies in bfloat16, in training, measuring and testing alike; values,
    features and all that is made of them are fp32.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter,
        *,
        device: str | torch.device = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        self._half = precision == "bf16"
        self.backbone = backbone
        self.adapter = adapter
        self.device = torch.device(device)
        self.layers: dict[str, tuple[int, int]] = {}
        self._layers: dict[str, nn.Module] = {}
        self._heads: dict[int, nn.Parameter] = {}
        self._mask: Tensor | None = None
        self._projection: Tensor | None = None
        if adapter.kind == "prompt" and adapter.prompts is None:
            raise UserError("adapter.kind = 'prompt' says not which; take the adapter of a prompt method's options")
        module = backbone.module.to(self.device).requires_grad_(False)
        if adapter.kind in ("lora", "full"):
            lora = adapter.kind == "lora"
            chosen = choose(module, adapter.layers, adapter.blocks) if lora else linear_layers(module)
            self.layers = {name: (layer.out_features, layer.in_features) for name, layer in chosen.items()}
            if lora:
                adapters.inject(module, adapter, list(chosen))
            self._layers = {name: module.get_submodule(name) for name in chosen}
        self._prompted = Prompted(backbone, adapter.prompts if adapter.kind == "prompt" else None, self.device)
        self._base = _floating(module) if adapter.kind == "full" else {}
        self._pretrained = {name: value.detach().clone() for name, value in self._base.items()}

    @property
    def input(self) -> ImageInput | TextInput:
        return self.backbone.input

    @property
    def width(self) -> int:
        return self.backbone.width

    def fresh(self, generator: torch.Generator) -> dict[str, Tensor]:
        """First values of the adapter: factors, prompts, or the pre-trained weights under full fine-tuning."""
        if self.adapter.kind == "full":
            return {f"base/{name}": value.cpu() for name, value in self._pretrained.items()}
        if self.adapter.kind == "lora":
            return adapters.fresh_lora(self.layers, self.adapter.rank, generator)
        return prefix(self._prompted.fresh(generator), "prompt")

    def load(self, tensors: Tensors) -> None:
        """Makes these the tuned values; a low-rank term whose tensors are missing is inactive."""
        unknown = [key for key in tensors if key.split("/", 1)[0] not in KINDS]
        if unknown:
            raise UserError(f"the model has no place for {unknown[0]!r}; it loads {', '.join(KINDS)}")
        self._check(tensors)
        if self.adapter.kind == "lora":
            self._load_low_rank(tensors)
        self._prompted.load(select(tensors, "prompt"))
        with torch.no_grad():
            for name, value in select(tensors, "base").items():
                self._base[name].copy_(value)
        self._heads = {
            int(task): nn.Parameter(value.to(self.device, torch.float32, copy=True), requires_grad=False)
            for task, value in select(tensors, "head").items()
        }
        drawn = tensors.get("projection")
        self._projection = None if drawn is None else draw_projection(drawn, self.width).to(self.device)

    def _check(self, tensors: Tensors) -> None:
        """Values of this adapter's own kinds must fit it; what is of another rank or model is named."""
        own = self._values()
        for key, value in tensors.items():
            if key.split("/", 1)[0] not in ("lora_A", "lora_B", "base"):
                continue
            if key not in own:
                raise UserError(f"the model tunes no {key!r}; the tensors are of another adapter or backbone")
            if own[key].shape != value.shape:
                raise UserError(
                    f"{key!r} has shape {tuple(value.shape)}, the model needs {tuple(own[key].shape)}; "
                    "the tensors are of another adapter or backbone"
                )

    def _load_low_rank(self, tensors: Tensors) -> None:
        active = [name for name in (LORA, DELTA) if any(key.startswith(f"{name}_B/") for key in tensors)]
        with torch.no_grad():
            for name, layer in self._layers.items():
                if LORA in active:
                    layer.lora_A[LORA].weight.copy_(tensors[f"lora_A/{name}"])  # type: ignore[index]
                    layer.lora_B[LORA].weight.copy_(tensors[f"lora_B/{name}"])  # type: ignore[index]
                if DELTA in active:
                    adapters.set_delta(layer, tensors[f"delta_B/{name}"], tensors[f"delta_A/{name}"])
                layer.set_adapter(active, inference_mode=True)  # type: ignore[operator]

    def parameters(self, kinds: Sequence[str]) -> dict[str, nn.Parameter]:
        """The parameters of these kinds (`lora_A`, `base`, `head/3`, ...), which alone require gradients now."""
        chosen: dict[str, nn.Parameter] = {}
        for key, value in self._values().items():
            if isinstance(value, nn.Parameter):
                value.requires_grad_(_among(key, kinds))
                if value.requires_grad:
                    chosen[key] = value
        return chosen

    def values(self, kinds: Sequence[str]) -> dict[str, Tensor]:
        """Copies on the CPU of the loaded values of these kinds, buffers of normalisation layers included."""
        return {key: value.detach().cpu().clone() for key, value in self._values().items() if _among(key, kinds)}

    def _values(self) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {f"base/{name}": value for name, value in self._base.items()}
        for name, layer in self._layers.items() if self.adapter.kind == "lora" else ():
            values[f"lora_A/{name}"] = layer.lora_A[LORA].weight  # type: ignore[index]
            values[f"lora_B/{name}"] = layer.lora_B[LORA].weight  # type: ignore[index]
        values |= prefix(self._prompted.loaded, "prompt")
        return values | {f"head/{task}": value for task, value in self._heads.items()}

    def train(self, mode: bool = True) -> None:
        """Dropout on or off; normalisation statistics move only where the backbone itself is tuned.

        There is no dropout under prompts: the plain model's feature chooses them.
        """
        self.backbone.module.train(mode and self.adapter.kind != "prompt")
        if not self._base:
            for module in self.backbone.module.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(n, width), or the random features of a loaded projection."""
        reads = self.backbone.input
        self._mask = inputs.get(reads.mask) if isinstance(reads, TextInput) else None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            features = self._prompted.features(inputs)
        features = features.float() if self._half else features
        return features if self._projection is None else random_features(features, self._projection)

    def logits(self, features: Tensor) -> Tensor:
        """(n, classes of all loaded heads)."""
        return heads.logits(features, heads.join(self._heads))

    def penalty(self) -> Tensor:
        """What the adapter adds to the loss of the last forward pass: zero for all but prompts."""
        return self._prompted.penalty

    @contextmanager
    def inputs_of(self, layers: Sequence[str], watch: Callable[[str, Tensor], None]) -> Iterator[None]:
        """Calls `watch(layer, x)` with each layer's input, (tokens, d_in), on every pass; padding is left out."""

        def hook(name: str):
            def see(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                watch(name, self._tokens(inputs[0].detach()))

            return see

        handles = [self._layers[name].register_forward_pre_hook(hook(name)) for name in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _tokens(self, x: Tensor) -> Tensor:
        """One row a token; rows of padding tokens dropped where `x` has the shape of the input texts."""
        if self._mask is not None and x.shape[:-1] == self._mask.shape:
            return x[self._mask.bool()]
        return x.reshape(-1, x.shape[-1])


def _among(key: str, kinds: Sequence[str]) -> bool:
    return any(key == kind or key.startswith(kind + "/") for kind in kinds)


def _floating(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and floating-point buffers by name; a buffer such as a running mean is part of what is tuned."""
    persistent = set(module.state_dict())
    buffers = {name: b for name, b in module.named_buffers() if b.is_floating_point() and name in persistent}
    return dict(module.named_parameters()) | buffers
