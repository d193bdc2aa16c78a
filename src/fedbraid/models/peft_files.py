"""The tuned model as files that others load: a PEFT adapter folder, or the backbone with the update merged in.

Beside either lie `head.safetensors` (the classifier: `weight` (classes, width) and `bias`; where it reads random
features ReLU(f P) also `projection`, P (width, number of features)) and `classes.json` (the name of each row).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fedbraid.algebra import Tensors, select
from fedbraid.errors import UserError
from fedbraid.models import heads
from fedbraid.models.adapters import Adapter, peft_config
from fedbraid.models.backbones import TINY, Backbone, load_backbone
from fedbraid.models.random_features import draw_projection

BESIDE_WEIGHTS = (
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "spiece.model",
    "1_Pooling/config.json",
)
"""What a model folder may hold to read its inputs and pool its outputs."""


def effective_factors(weights: Tensors, adapter: Adapter) -> dict[str, tuple[Tensor, Tensor]]:
    """(left, right) by layer, whose product is the whole update of the layer: the adapter and the merged past."""
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for layer, left in select(weights, "delta_B").items():
        factors[layer] = (left, weights[f"delta_A/{layer}"])
    for layer, left in select(weights, "lora_B").items():
        right = adapter.scale * weights[f"lora_A/{layer}"]
        before = factors.get(layer)
        factors[layer] = (torch.cat([before[0], left], 1), torch.cat([before[1], right])) if before else (left, right)
    return factors


def save_adapter(weights: Tensors, adapter: Adapter, backbone: str, out: Path) -> None:
    """A folder that `peft` loads on the backbone: scale 1, the rank of the whole update."""
    factors = effective_factors(weights, adapter)
    if not factors:
        raise UserError("this run has no adapter: it tuned the backbone itself or the head alone; use --format merged")
    rank = next(iter(factors.values()))[1].shape[0]
    config = peft_config(Adapter(rank=rank), list(factors))
    config.base_model_name_or_path = str(TINY) if backbone == "tiny" else backbone
    config.inference_mode = True
    tensors: dict[str, Tensor] = {}
    for layer, (left, right) in factors.items():
        tensors[f"base_model.model.{layer}.lora_A.weight"] = right.contiguous()
        tensors[f"base_model.model.{layer}.lora_B.weight"] = left.contiguous()
    config.save_pretrained(str(out))
    save_file(tensors, out / "adapter_model.safetensors")


def save_merged(weights: Tensors, adapter: Adapter, backbone: Backbone, out: Path) -> None:
    """The backbone with every update added to its weights (in fp64, stored as fp32), in its own library's format.

    The given backbone may be adapted already, so a fresh one is loaded and changed.
    """
    fresh = load_backbone(backbone.name)
    with torch.no_grad():
        for layer, (left, right) in effective_factors(weights, adapter).items():
            weight = fresh.module.get_submodule(layer).weight
            assert isinstance(weight, Tensor)
            weight.copy_(weight.double() + left.double() @ right.double())
        state = fresh.module.state_dict()
        for name, value in select(weights, "base").items():
            state[name].copy_(value)
    _save_module(fresh.module, backbone.name, out)


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
