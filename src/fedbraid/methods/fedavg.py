"""FedAvg: train locally, average.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017.

    w* = sum_i n_i w_i / sum_i n_i

With a low-rank adapter the factors are averaged one by one, which is FedIT (see `methods.fedit`): not the average of
the updates.
Travels up: the tuned values and the sample count.
Differs from public code: means are weighted by sample counts; the head of earlier tasks is not sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedbraid.algebra import Tensors
from fedbraid.core import Method, Phase
from fedbraid.merges import Mean
from fedbraid.methods.base import About, Options, Setting, examined, grow, head_of, model_values, tuned
from fedbraid.phases import Train, serve


@dataclass(frozen=True)
class FedAvg(Options):
    """FedAvg has no options of its own."""

    about: ClassVar[About] = About(
        name="fedavg",
        title="FedAvg",
        family="averaging",
        citation="McMahan et al., AISTATS 2017",
        travels="tuned values, sample count",
        adapters=("full", "lora", "vera", "lora_xs", "ia3", "none"),
        modalities=("image", "text", "language"),
        numbers=True,
    )

    def build(self, setting: Setting) -> Method:
        """One adapter for all tasks, averaged in every round."""
        return carried(self.about.name, setting, {"train": averaging(setting)})


def averaging(setting: Setting) -> Train:
    """Training of everything that the adapter tunes and the task's head, with a mean at the end of every round."""
    kinds = tuned(setting.adapter)
    return Train(
        rounds=setting.rounds,
        kinds=lambda round: (*kinds, head_of(round)),
        training=setting.training,
        merge=Mean(),
        objectives=(setting.objective,),
        weights=lambda shared, _round: model_values(shared),
        capacities=setting.capacities,
        cohort=setting.cohort,
    )


def carried(
    name: str,
    setting: Setting,
    phases: Mapping[str, Phase],
    *,
    weights: Callable[[Tensors], Tensors] = model_values,
) -> Method:
    """A method whose one model is carried through all tasks: its head grows, then the phases run."""
    return Method(name, {"start": serve(grow), **phases}, examined(setting, weights), weights)
