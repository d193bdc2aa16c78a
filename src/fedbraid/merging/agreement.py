"""What adapters must share to be merged: base model, shapes, and what was trained beside the factors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedbraid.errors import UserError
from fedbraid.merging.folders import AdapterFolder


def check_agreement(adapters: Sequence[AdapterFolder]) -> None:
    """`UserError` naming the first two adapters that do not fit together, and in what."""
    _same(adapters, "base model", _base, "adapters of one model can be merged")
    _same(adapters, "task type", lambda adapter: adapter.config.get("task_type"), "load them as one class of model")
    _same(adapters, "trained bias", lambda adapter: adapter.config.get("bias") or "none", "train all in one way")
    shapes: dict[str, tuple[AdapterFolder, tuple[object, ...]]] = {}
    for adapter in adapters:
        for name, layer in adapter.layers.items():
            first, shape = shapes.setdefault(name, (adapter, (*layer.shape, layer.embedding)))
            if shape != (*layer.shape, layer.embedding):
                raise UserError(
                    f"layer {name!r} is {shape[:2]} in {first.path} and {layer.shape} in {adapter.path}; "
                    "the adapters are of different base models"
                )
    _check_whole(adapters)


def mean_of_whole(adapters: Sequence[AdapterFolder], weights: Tensor) -> dict[str, Tensor]:
    """The weighted mean, in fp64, of every tensor that was trained whole; numbers that only count stay as they are."""
    return {
        name: torch.stack([a.whole[name].double() * w for a, w in zip(adapters, weights, strict=True)]).sum(0)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in adapters[0].whole.items()
    }


def common(adapters: Sequence[AdapterFolder], key: str) -> Any:
    """The value of a config key in the first adapter that has one."""
    return next((adapter.config[key] for adapter in adapters if adapter.config.get(key)), None)


def _base(adapter: AdapterFolder) -> str:
    path = Path(adapter.base).expanduser()
    return os.path.realpath(path) if adapter.base and os.path.exists(path) else adapter.base


def _same(adapters: Sequence[AdapterFolder], what: str, of: Callable[[AdapterFolder], Any], rule: str) -> None:
    """All that state a value state the same one."""
    stated = [(adapter.path, of(adapter)) for adapter in adapters if of(adapter)]
    for path, value in stated[1:]:
        if value != stated[0][1]:
            raise UserError(f"{stated[0][0]} has the {what} {stated[0][1]!r}, {path} has {value!r}; only {rule}")


def _check_whole(adapters: Sequence[AdapterFolder]) -> None:
    first = adapters[0]
    for adapter in adapters[1:]:
        for name in sorted(first.whole.keys() ^ adapter.whole.keys()):
            having, lacking = (first, adapter) if name in first.whole else (adapter, first)
            raise UserError(
                f"{having.path} has trained {name!r} as a whole, {lacking.path} has not; a weight that only some have "
                "trained has no mean"
            )
        for name, tensor in adapter.whole.items():
            held = first.whole[name]
            if held.shape != tensor.shape:
                raise UserError(
                    f"{name!r} has shape {tuple(held.shape)} in {first.path} and {tuple(tensor.shape)} in "
                    f"{adapter.path}; heads of different classes cannot be averaged"
                )
            if not tensor.is_floating_point() and not torch.equal(held, tensor):
                raise UserError(f"{name!r} holds whole numbers that differ in {first.path} and {adapter.path}")
