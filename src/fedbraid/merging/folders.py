"""Reading the adapter folders that peft writes: `adapter_config.json` beside `adapter_model.safetensors`.

A layer's update is `scale * B A`, where the scale is alpha / r, or alpha / sqrt r under rsLoRA, and both numbers may
differ by layer. On an embedding peft names the factors otherwise, and on GPT-2's Conv1D the base weight is stored
transposed; the product of the factors is (d_out x d_in) in all cases. Pickles are never opened.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedbraid.errors import UserError
from fedbraid.low_rank import Factors
from fedbraid.merging.unsupported import check_config, layer_pattern

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
START = "base_model.model."
"""How peft names begin: the wrapped model, then the layer's own name in it."""

_FACTOR = re.compile(r"^base_model\.model\.(?P<layer>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.weight)?$")
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class LoraLayer:
    """One layer's factors as they are stored, (d_out x r) and (r x d_in), and the scale of their product."""

    left: Tensor
    right: Tensor
    scale: float
    embedding: bool = False

    @property
    def rank(self) -> int:
        return self.right.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in) of the update."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def pair(self) -> Factors:
        """The update as factors in fp64, the scale with the right one."""
        return self.left.double(), self.right.double() * self.scale


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter as peft stores it: `config` as it was read, low-rank layers, and whole tensors.

    Whole tensors, by their names in the file, are what was trained beside the factors: the modules of
    `modules_to_save`, and biases.
    """

    path: Path
    config: Mapping[str, Any]
    layers: Mapping[str, LoraLayer]
    whole: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def base(self) -> str:
        """The model that the adapter was trained on, empty where its config does not say."""
        return self.config.get("base_model_name_or_path") or ""


def read_adapter(path: Path) -> AdapterFolder:
    """The adapter in a folder; `UserError` for what is missing, damaged, not finite, or no plain LoRA."""
    if not path.is_dir():
        raise UserError(f"there is no adapter folder {path}; give folders that peft's save_pretrained wrote")
    config = _read_config(path / CONFIG)
    check_config(config, path)
    tensors = _read_tensors(path)
    factors: dict[str, dict[str, Tensor]] = {}
    embeddings: set[str] = set()
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = _FACTOR.match(name)
        if not found:
            whole[name] = tensor
            continue
        sides = factors.setdefault(found["layer"], {})
        if found["side"] in sides:
            raise UserError(f"{path / WEIGHTS}: {name!r} is there under two names; save the adapter again")
        sides[found["side"]] = tensor
        if found["embedding"]:
            embeddings.add(found["layer"])
    if not factors:
        raise UserError(f"{path / WEIGHTS} holds no LoRA factors (names that end in lora_A.weight and lora_B.weight)")
    _check_whole(whole, path)
    layers = {
        name: _layer(name, sides, config, embedding=name in embeddings, path=path) for name, sides in factors.items()
    }
    return AdapterFolder(path, config, layers, whole)


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file.parent} is no adapter folder: it has no {CONFIG}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read ({error}); save the adapter again") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} holds no JSON object; save the adapter again")
    return config


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = path / WEIGHTS
    if not file.is_file():
        if (path / "adapter_model.bin").is_file():
            raise UserError(
                f"{path} has its weights as a pickle, adapter_model.bin, which can run code when it is opened and is "
                "therefore not read; where you trust it, load it with peft and save it again: "
                "save_pretrained writes safetensors"
            )
        raise UserError(f"{path} has no {WEIGHTS}; copy the whole folder, or save the adapter again")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged or no safetensors file ({error}); copy it again") from error
    for name, tensor in tensors.items():
        _check_values(tensor, f"{file}: {name!r}", factor=bool(_FACTOR.match(name)))
    return tensors


def _check_values(tensor: Tensor, where: str, *, factor: bool) -> None:
    """`UserError` for numbers that have no mean: of a quantised or complex type, not finite, or beyond fp32."""
    if tensor.dtype not in _FLOATS and (factor or tensor.is_floating_point() or tensor.is_complex()):
        raise UserError(f"{where} is stored as {tensor.dtype}; save the adapter in fp32, fp16 or bf16")
    if tensor.dtype in _FLOATS and not torch.isfinite(tensor.float()).all():
        raise UserError(f"{where} has values that are NaN or infinite, in fp32 at least; leave this adapter out")


def _check_whole(whole: Mapping[str, Tensor], path: Path) -> None:
    for name in whole:
        if "lora_" in name or "trainable_tokens" in name or not name.startswith(START):
            raise UserError(f"{path / WEIGHTS}: {name!r} is no part of a plain LoRA adapter and cannot be merged")


def _layer(name: str, sides: Mapping[str, Tensor], config: Mapping[str, Any], *, embedding: bool, path: Path):
    where = f"{path / WEIGHTS}: layer {name!r}"
    if sides.keys() != {"A", "B"}:
        raise UserError(f"{where} has only its factor lora_{next(iter(sides))}; save the adapter again")
    left, right = sides["B"], sides["A"]
    if left.ndim != 2 or right.ndim != 2:
        raise UserError(
            f"{where} is a convolution, whose factors cannot be merged; only linear and embedding layers can"
        )
    rank, alpha = _rank_and_alpha(name, config)
    if not left.shape[1] == right.shape[0] == rank:
        raise UserError(
            f"{where} has factors {tuple(left.shape)} and {tuple(right.shape)}, but {CONFIG} says rank {rank}; "
            "the two files are not of one adapter"
        )
    if 0 in (*left.shape, *right.shape):
        raise UserError(
            f"{where} has factors {tuple(left.shape)} and {tuple(right.shape)}, which are empty; leave it out"
        )
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    if not torch.isfinite((right.double() * scale).float()).all():
        raise UserError(f"{where} is too large for fp32 under its alpha, {alpha:g}; leave this adapter out")
    return LoraLayer(left, right, scale, embedding)


def _rank_and_alpha(layer: str, config: Mapping[str, Any]) -> tuple[int, float]:
    rank = _by_pattern(config.get("rank_pattern") or {}, layer)
    alpha = _by_pattern(config.get("alpha_pattern") or {}, layer)
    return config["r"] if rank is None else rank, config["lora_alpha"] if alpha is None else alpha


def _by_pattern(patterns: Mapping[str, Any], layer: str) -> Any:
    """The value of the first pattern that the end of the layer's name matches, as peft looks it up."""
    return next((value for key, value in patterns.items() if re.match(layer_pattern(key), layer)), None)
