"""The classification head: one linear layer that grows with the tasks.

Each task's rows are a value of their own, `head/<task>`, of shape (classes, width + 1) with the bias as last column, so
old rows are never touched, a download carries only the new ones, and weight and bias are merged in one solve.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from fedbraid.algebra import Tensors
from fedbraid.errors import UserError


def fresh_head(classes: int, width: int, generator: torch.Generator) -> Tensor:
    """(classes, width + 1): rows drawn uniformly from +-1/sqrt(width) as in `torch.nn.Linear`, bias zero."""
    weight = (torch.rand(classes, width, generator=generator) * 2 - 1) / math.sqrt(width)
    return torch.cat([weight, torch.zeros(classes, 1)], dim=1)


def by_task(heads: Tensors) -> dict[int, Tensor]:
    """The heads by the numbers of their tasks; `UserError` for one that has no number."""
    odd = [task for task in heads if not re.fullmatch(r"[0-9]{1,18}", task)]
    if odd:
        raise UserError(f"'head/{odd[0]}' is no head: they are named by the numbers of their tasks")
    return {int(task): head for task, head in heads.items()}


def join(heads: Mapping[int, Tensor]) -> Tensor:
    """The heads of all tasks as one, in the order of the stream; `UserError` where there is none."""
    if not heads:
        raise UserError("the model predicts nothing without a head; load one, 'head/<task>'")
    return torch.cat([heads[task] for task in sorted(heads)])


def logits(features: Tensor, head: Tensor) -> Tensor:
    """(n, classes) from (n, width) and (classes, width + 1)."""
    return F.linear(features.to(head.dtype), head[:, :-1], head[:, -1])
