"""LwF: the model of the previous task teaches the old classes.

Li and Hoiem, Learning without Forgetting, ECCV 2016.

    local loss + weight T^2 KL(softmax(z_old / T) || softmax(z / T))        over the classes of earlier tasks

z_old are the logits of the model as it was at the end of the previous task, on the batches of the current one.
Travels up: the tuned values and the sample count. Travels down: nothing more than in FedAvg: clients have the teacher.
Differs from public code: the *old* classes' logits are distilled, not the current ones; the old heads, whose rows
follow the features, are trained with them. Differs from the paper: one softmax over all old classes, where that has one
a task; no warm-up in which the new head is trained alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fedbraid.algebra import Tensors, prefix, select
from fedbraid.core import Method, Model, Round, State
from fedbraid.local.objectives import Distillation
from fedbraid.methods.base import About, Options, Setting, grow, model_values, require, tuned
from fedbraid.methods.fedavg import averaging, carried
from fedbraid.phases import serve

TEACHER = "teacher"


@dataclass(frozen=True)
class LwF(Options):
    """The options of LwF."""

    weight: float = 0.5
    temperature: float = 2.0

    about: ClassVar[About] = About(
        name="lwf",
        title="LwF",
        family="regularisation",
        citation="Li and Hoiem, ECCV 2016",
        travels="tuned values, sample count",
        adapters=("full", "lora", "none"),
    )

    def build(self, setting: Setting) -> Method:
        """`UserError` for options out of range."""
        require(self.weight >= 0, "weight", self.weight, "must not be negative")
        require(self.temperature > 0, "temperature", self.temperature, "must be above 0")
        kinds = tuned(setting.adapter)
        train = replace(
            averaging(setting),
            kinds=lambda _round: (*kinds, "head"),
            objectives=(setting.objective, Distillation(self.weight, self.temperature)),
            teacher=_teacher,
        )
        return carried(self.about.name, setting, {"start": serve(_start), "train": train})


def _start(model: Model, state: State, round: Round) -> State:
    """The model so far becomes the teacher, then the head grows."""
    teacher = prefix(model_values(state.shared), TEACHER) if round.task.index else {}
    grown = grow(model, state, round)
    return State({**grown.shared, **teacher}, grown.server)


def _teacher(shared: Tensors, round: Round) -> Tensors | None:
    return select(shared, TEACHER) if round.task.index else None
