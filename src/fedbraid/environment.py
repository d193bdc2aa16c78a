"""On what a run computed: versions and machine class. Equal bits are promised for equal environments only."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = ("fedbraid", "torch", "transformers", "peft", "safetensors", "numpy", "kornia", "datasets", "timm")


def environment(device: torch.device) -> dict[str, str]:
    """Names to versions of what a result depends on; a package that is not installed is left out."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return found | {"device": f"{device.type}: {name}", "threads": str(torch.get_num_threads())}


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What is not the same, in words."""
    names = sorted({*before, *now})
    return [
        f"{name} was {before.get(name, 'absent')}, is {now.get(name, 'absent')}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _processor() -> str:
    return torch.backends.cpu.get_cpu_capability()
