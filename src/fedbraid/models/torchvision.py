"""Importing torchvision beside a CPU-only torch.

torchvision's wheels are built for CUDA. Beside a CPU-only torch its import fails for want of two operator schemas,
and with it the import of timm and of transformers' vision models. Declaring the schemas lets all of them load; the
operators themselves stay unusable, and no classification model needs them.
"""

from __future__ import annotations

import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def make_torchvision_importable() -> None:
    """Declares the missing schemas once; does nothing where torch has CUDA."""
    if torch.version.cuda is not None:
        return
    for operator, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, operator):
            torch.library.define(f"torchvision::{operator}", schema)
