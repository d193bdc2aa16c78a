"""What is no plain LoRA: adapters whose effect is not `scale * B A` on top of the base model's own weights."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedbraid.errors import UserError

_FEATURES = {
    "use_dora": "DoRA: it rescales whole weights, so its effect is no sum of low-rank updates",
    "lora_bias": "a bias inside the low-rank term",
    "target_parameters": "LoRA on bare parameters, as of mixtures of experts",
    "trainable_token_indices": "single trained tokens of an embedding",
    "alora_invocation_tokens": "activated LoRA, which acts on some tokens only",
    "use_qalora": "QA-LoRA, which pools the inputs",
    "use_bdlora": "BD-LoRA, whose factors are block-diagonal",
    "arrow_config": "Arrow, which routes between adapters",
    "monteclora_config": "MonteCLoRA, whose factors are random",
    "kasa_config": "KaSA, which has singular values of its own",
    "layer_replication": "copies of layers",
}
_MOVES_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga", "kasa")
"""Initialisations that change the base model's weights, so that the adapter alone is not the update."""

_TYPES: Mapping[str, tuple[type, ...]] = {
    "rank_pattern": (dict,),
    "alpha_pattern": (dict,),
    "use_rslora": (bool,),
    "fan_in_fan_out": (bool,),
    "lora_dropout": (int, float),
    "base_model_name_or_path": (str,),
    "task_type": (str,),
    "bias": (str,),
    "auto_mapping": (dict,),
    "modules_to_save": (list,),
}
"""What peft writes under the keys that are read of a configuration, where it is not null."""
_TASKS = ("SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """`UserError` naming what an adapter's configuration asks for beyond plain LoRA."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UserError(f"{path} is an adapter of type {kind!r}; only LORA adapters can be merged")
    for key, meaning in _FEATURES.items():
        if config.get(key):
            raise UserError(f"{path} uses {meaning} ({key}); this cannot be merged, leave the adapter out")
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(_MOVES_BASE):
        raise UserError(
            f"{path} was started by {start!r}, which changes the weights of the base model; convert it to plain LoRA "
            "first: save_pretrained with path_initial_model_for_weight_conversion"
        )
    _check_types(config, path)
    _check_numbers(config, path)


def layer_pattern(pattern: str) -> str:
    """The expression by which peft looks up a layer's rank and alpha: the end of its name must match the pattern."""
    return rf"(.*\.)?({pattern})$"


def _check_types(config: Mapping[str, Any], path: Path) -> None:
    for key, types in _TYPES.items():
        value = config.get(key)
        if value is not None and not isinstance(value, types):
            names = " or ".join(kind.__name__ for kind in types)
            raise UserError(f"{path}: {key} in its config is {value!r}, not of type {names}; save the adapter again")
    task = config.get("task_type")
    if task and task not in _TASKS:
        raise UserError(f"{path}: its config has a task type {task!r} that peft does not know; known are {_TASKS}")


def _check_numbers(config: Mapping[str, Any], path: Path) -> None:
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    alphas = [config.get("lora_alpha"), *(config.get("alpha_pattern") or {}).values()]
    if not all(isinstance(rank, int) and rank >= 1 for rank in ranks):
        raise UserError(f"{path}: its config has a rank that is no positive integer ({ranks}); save the adapter again")
    if not all(isinstance(alpha, int | float) and abs(alpha) <= sys.float_info.max for alpha in alphas):
        raise UserError(f"{path}: its config has an alpha that is no number ({alphas}); save the adapter again")
    for pattern in (*(config.get("rank_pattern") or {}), *(config.get("alpha_pattern") or {})):
        try:
            re.compile(layer_pattern(pattern))
        except re.error as error:
            raise UserError(
                f"{path}: the pattern {pattern!r} in its config is no regular expression: {error}"
            ) from error
