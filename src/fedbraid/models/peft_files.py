"""The tuned model as files that others load: a PEFT adapter folder, or the backbone with the update merged in.

Beside either lie `head.safetensors` (the classifier: `weight` (classes, width) and `bias`; where it reads random
features ReLU(f P) also `projection`, P (width, number of features)) and `classes.json` (the name of each row).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fedbraid.algebra import Tensors, select
from fedbraid.errors import UserError
from fedbraid.low_rank import Factors
from fedbraid.models import heads
from fedbraid.models.adapters import Adapter, only, peft_config
from fedbraid.models.backbones import TINY, Backbone, load_backbone
from fedbraid.models.causal import CausalBackbone, load_causal
from fedbraid.models.effective import Layers, effective_factors, effective_update, merged_factors, trained_factors
from fedbraid.models.layers import are_transposed, shape_of, weight_of
from fedbraid.models.random_features import draw_projection
from fedbraid.models.tuning.ia3 import scales_input

if TYPE_CHECKING:
    from peft import PeftConfig

WEIGHTS = "adapter_model.safetensors"
BESIDE_WEIGHTS = (
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "chat_template.jinja",
    "generation_config.json",
    "1_Pooling/config.json",
)
"""What a model folder may hold to read its inputs, pool its outputs and write, as the model's authors say."""


def save_adapter(
    weights: Tensors, adapter: Adapter, layers: Layers, backbone: Backbone | CausalBackbone, out: Path
) -> None:
    """A folder that `peft` loads on the backbone: (IA)^3 as such, others as LoRA of the rank of the whole update."""
    if adapter.kind == "ia3":
        return _save(*_scalings(weights, adapter, layers), layers, backbone, out)
    return _save(*_lora(effective_factors(weights, adapter, layers)), layers, backbone, out)


def save_apart(
    weights: Tensors, adapter: Adapter, layers: Layers, backbone: Backbone | CausalBackbone, out: Path
) -> None:
    """Two folders for `peft`, to be active together: `adapter`, of the rank that was trained, and `residual`."""
    merged = merged_factors(weights)
    if not merged:
        raise UserError("this run has merged nothing beside its adapter; use --format peft")
    _save(*_lora(trained_factors(weights, adapter, layers)), layers, backbone, out / "adapter")
    _save(*_lora(merged), layers, backbone, out / "residual")


def _save(config: PeftConfig, tensors: Tensors, layers: Layers, backbone: Backbone | CausalBackbone, out: Path) -> None:
    config.base_model_name_or_path = str(TINY) if backbone.name == "tiny" else backbone.name
    if hasattr(config, "fan_in_fan_out"):
        transposed = are_transposed([_plain(backbone.module, layer) for layer in layers])
        config.fan_in_fan_out = transposed  # type: ignore[attr-defined]
    config.task_type = "CAUSAL_LM" if isinstance(backbone, CausalBackbone) else None
    config.inference_mode = True
    config.save_pretrained(str(out))
    save_file({f"base_model.model.{key}": tensor.contiguous() for key, tensor in tensors.items()}, out / WEIGHTS)


def _plain(module: nn.Module, name: str) -> nn.Module:
    """The linear layer of that name, also where peft has put its own in front of it."""
    found = module.get_submodule(name)
    return getattr(found, "base_layer", found)


def _lora(factors: Mapping[str, Factors]) -> tuple[PeftConfig, dict[str, Tensor]]:
    """(configuration, tensors) of these updates, at scale 1; layers may have different ranks."""
    if not factors:
        raise UserError("this run has no adapter: it tuned the backbone itself or the head alone; use --format merged")
    ranks = {layer: right.shape[0] for layer, (_, right) in factors.items()}
    config = peft_config(Adapter(rank=max(ranks.values())), list(factors))
    config.rank_pattern = {only(layer): rank for layer, rank in ranks.items() if rank != config.r}
    config.alpha_pattern = dict(config.rank_pattern)
    tensors: dict[str, Tensor] = {}
    for layer, (left, right) in factors.items():
        tensors |= {f"{layer}.lora_A.weight": right.float(), f"{layer}.lora_B.weight": left.float()}
    return config, tensors


def _scalings(weights: Tensors, adapter: Adapter, layers: Layers):
    """(configuration, tensors) of (IA)^3; where peft scales an input, the layer is called feed-forward."""
    from peft import IA3Config

    inner = [layer for layer, shape in layers.items() if scales_input(adapter, layer, shape)]
    scales = select(weights, "scaling")
    tensors = {f"{layer}.ia3_l": scales[layer][None] if layer in inner else scales[layer][:, None] for layer in layers}
    return IA3Config(target_modules=list(layers), feedforward_modules=inner), tensors


def save_merged(
    weights: Tensors, adapter: Adapter, layers: Layers, backbone: Backbone | CausalBackbone, out: Path
) -> None:
    """The backbone with every update added to its weights (in fp64, stored as fp32), in its own library's format.

    The given backbone may be adapted already, so a fresh one is loaded and changed.
    """
    fresh = load_causal(backbone.name) if isinstance(backbone, CausalBackbone) else load_backbone(backbone.name)
    with torch.no_grad():
        for layer in layers if adapter.kind not in ("full", "ia3") else ():
            weight = weight_of(fresh.module.get_submodule(layer))
            weight.copy_(weight.double() + effective_update(weights, adapter, layers, layer))
        for layer, scale in select(weights, "scaling").items():
            _scale(fresh.module.get_submodule(layer), scale.double(), adapter, layer)
        state = fresh.module.state_dict()
        for name, value in select(weights, "base").items():
            state[name].copy_(value)
    _save_module(fresh.module, backbone.name, out)


def _scale(module: nn.Module, scale: Tensor, adapter: Adapter, layer: str) -> None:
    """The weight with its columns scaled, or its rows and the bias."""
    weight = weight_of(module)
    inner = scales_input(adapter, layer, shape_of(module))
    weight.copy_(weight.double() * (scale if inner else scale[:, None]))
    bias = dict(module.named_parameters()).get("bias")
    if bias is not None and not inner:
        bias.copy_(bias.double() * scale)


def save_head(weights: Tensors, class_names: Sequence[str], width: int, out: Path) -> None:
    """The classifier over all classes seen, and their names; `width` is that of the backbone's features."""
    head = heads.join({int(task): value for task, value in select(weights, "head").items()})
    tensors = {"weight": head[:, :-1].contiguous(), "bias": head[:, -1].contiguous()}
    if "projection" in weights:
        tensors["projection"] = draw_projection(weights["projection"], width)
    save_file(tensors, out / "head.safetensors")
    (out / "classes.json").write_text(json.dumps(list(class_names[: len(head)]), indent=2) + "\n")


def _save_module(module: nn.Module, name: str, out: Path) -> None:
    if name.startswith("timm:"):
        tensors = {key: value.contiguous() for key, value in module.state_dict().items()}
        save_file(tensors, out / "model.safetensors")
        return
    from transformers.utils.hub import cached_file

    module.save_pretrained(out)  # type: ignore[operator]
    for file in BESIDE_WEIGHTS:
        found = cached_file(TINY if name == "tiny" else name, file, _raise_exceptions_for_missing_entries=False)
        if found:
            (out / file).parent.mkdir(exist_ok=True)
            (out / file).write_bytes(Path(found).read_bytes())
