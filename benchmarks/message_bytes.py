"""Bytes that one client sends and receives in every kind of round of every method, at ViT-B/16.

    python benchmarks/message_bytes.py [METHOD...]

Two tasks of 10 classes, one client, noise images, random weights, LoRA of rank 16 where the method takes it, two rounds
a task. Clients really train a step and measure, and the messages are those of a run (names, forms, wire format); given
are those of the second task, when a client already has what does not change. Minutes a method on one core.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from safetensors.torch import save_file

import fedbraid
from fedbraid.core import Event
from fedbraid.methods import METHODS
from fedbraid.models.torchvision import make_torchvision_importable

make_torchvision_importable()
import timm  # noqa: E402

NAME = "vit_base_patch16_224"
SMALL = {"target": {"images": 2, "steps": 1}, "ccvr": {"samples": 8}}


def main() -> None:
    with TemporaryDirectory() as root:
        folder = Path(root)
        save_file(timm.create_model(NAME, num_classes=0).state_dict(), folder / "weights.safetensors")
        for name in sys.argv[1:] or METHODS:
            for event in _events(name, folder):
                if event.round.task.index == 1 and event.outcome.bytes_up:
                    up, down = (sum(side.values()) / 1e6 for side in (event.outcome.bytes_up, event.outcome.bytes_down))
                    print(f"{name:12} {event.round.phase:12} {event.round.index}  up {up:8.2f} MB  down {down:8.2f} MB")


def _events(method: str, folder: Path) -> list[Event]:
    values = {
        "method": {"name": method, **SMALL.get(method, {})},
        "data": {"name": str(_images(folder / "images")), "augment": "none"},
        "stream": {"tasks": 1 if METHODS[method].about.centralised else 2},
        "partition": {"kind": "iid", "clients": 1},
        "backbone": {"name": f"timm:{NAME}@{folder}/weights.safetensors"},
        "adapter": {"rank": 16, "kind": "lora" if "lora" in METHODS[method].about.adapters else "auto"},
        "training": {"rounds": 2, "epochs": 1},
        "run": {"evaluate": "task"},
    }
    return list(fedbraid.build(fedbraid.parse(values)).events())


def _images(folder: Path) -> Path:
    """One training and one test image of 20 classes."""
    draws = torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        for c in range(20):
            (folder / split / f"{c:02}").mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(256, (64, 64, 3), generator=draws, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / split / f"{c:02}" / "0.png")
    return folder


if __name__ == "__main__":
    main()
