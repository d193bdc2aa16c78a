"""Training objectives: functions of one step that add up.

An objective sees a `Step` and returns a scalar; a method trains on the sum of its objectives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from fedbraid.algebra import Tensors
from fedbraid.core import Batch, Model, Round


@dataclass(frozen=True)
class Step:
    """One training step: the model, what the client received, the batch and what the model makes of it."""

    model: Model
    shared: Tensors
    round: Round
    batch: Batch
    features: Tensor
    logits: Tensor
    """(n, classes seen so far)."""


Objective = Callable[[Step], Tensor]


def cross_entropy(step: Step) -> Tensor:
    """Cross-entropy over the classes of the current task, so that absent classes are not pushed down."""
    classes = step.round.task.classes
    return F.cross_entropy(step.logits[:, classes.start : classes.stop], step.batch.labels - classes.start)
