"""Writing a merged update as an adapter folder that peft loads.

Ranks that differ by layer stand in `rank_pattern`. The scale is 1, but where the factors are the adapters' own on
average and these share a scale: there it is kept, so that training can go on as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedbraid.low_rank import Factors
from fedbraid.merging.agreement import common
from fedbraid.merging.folders import START, WEIGHTS, AdapterFolder, LoraLayer
from fedbraid.models.adapters import only
from fedbraid.models.torchvision import make_torchvision_importable


def stored(name: str, pair: Factors, adapters: Sequence[AdapterFolder], *, keep_scale: bool = False) -> LoraLayer:
    """A layer's merged factors in fp32, as the files will hold them."""
    same = [adapter.layers[name] for adapter in adapters if name in adapter.layers]
    scales = {layer.scale for layer in same}
    scale = scales.pop() if keep_scale and len(scales) == 1 and min(map(abs, scales or {1.0})) > 0 else 1.0
    left, right = pair
    return LoraLayer(left.float(), (right / scale).float(), scale, same[0].embedding)


def write_adapter(
    folder: Path,
    layers: Mapping[str, LoraLayer],
    adapters: Sequence[AdapterFolder],
    *,
    whole: Mapping[str, Tensor] | None = None,
) -> None:
    """The folder of an adapter with these layers and, where given, tensors that are stored whole.

    What else its configuration says (base model, kind of task, ...) is what the adapters' say. Without whole tensors it
    is an adapter for any class of model: no kind of task, which would ask for a head.
    """
    make_torchvision_importable()
    from peft import LoraConfig
    from safetensors.torch import save_file

    ranks = {name: layer.rank for name, layer in layers.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alphas = {name: layer.scale * layer.rank for name, layer in layers.items()}
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    beside = {} if whole is None else _beside(adapters)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type] (an integer by its annotation only)
        rank_pattern={only(name): found for name, found in ranks.items() if found != rank},
        alpha_pattern={only(name): found for name, found in alphas.items() if found != alpha},
        target_modules=list(layers),
        lora_dropout=max(adapter.config.get("lora_dropout") or 0.0 for adapter in adapters),
        fan_in_fan_out=any(adapter.config.get("fan_in_fan_out") for adapter in adapters),
        inference_mode=True,
        base_model_name_or_path=common(adapters, "base_model_name_or_path"),
        auto_mapping=common(adapters, "auto_mapping"),
        **beside,
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(_named(layers, whole or {}), folder / WEIGHTS, metadata={"format": "pt"})


def _named(layers: Mapping[str, LoraLayer], whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of an adapter under peft's names, floating-point ones in fp32."""
    tensors = {name: _storable(tensor) for name, tensor in whole.items()}
    for name, layer in layers.items():
        infix, ending = ("embedding_", "") if layer.embedding else ("", ".weight")
        tensors[f"{START}{name}.lora_{infix}A{ending}"] = layer.right.contiguous()
        tensors[f"{START}{name}.lora_{infix}B{ending}"] = layer.left.contiguous()
    return tensors


def _beside(adapters: Sequence[AdapterFolder]) -> dict[str, Any]:
    """What of the configuration concerns tensors that are stored whole."""
    saved = common(adapters, "modules_to_save")
    return {
        "task_type": common(adapters, "task_type"),
        "bias": adapters[0].config.get("bias") or "none",
        "modules_to_save": saved,
    }


def _storable(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype).contiguous()
