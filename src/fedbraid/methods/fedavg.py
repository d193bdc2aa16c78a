"""FedAvg: train locally, average.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017.

    w* = sum_i n_i w_i / sum_i n_i

With a low-rank adapter the factors are averaged one by one, which is FedIT (see `methods.fedit`): not the average of
the updates.
Travels up: the tuned values and the sample count.
Differs from public code: means are weighted by sample counts; the head of earlier tasks is not sent again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedbraid.core import Method
from fedbraid.merges import Mean
from fedbraid.methods.base import About, Setting, all_values, grow, head_of, tuned
from fedbraid.phases import Train, evaluate, serve


@dataclass(frozen=True)
class FedAvg:
    """FedAvg has no options of its own."""

    about: ClassVar[About] = About(
        name="fedavg",
        title="FedAvg",
        family="averaging",
        citation="McMahan et al., AISTATS 2017",
        travels="tuned values, sample count",
        adapters=("full", "lora", "none"),
    )

    def build(self, setting: Setting) -> Method:
        """One adapter for all tasks, averaged in every round."""
        return averaging(self.about.name, setting)


def averaging(name: str, setting: Setting) -> Method:
    """Training with a mean at the end of every round, under any name."""
    kinds = tuned(setting.adapter)
    train = Train(
        rounds=setting.rounds,
        kinds=lambda round: (*kinds, head_of(round)),
        training=setting.training,
        merge=Mean(),
        weights=lambda shared, _round: all_values(shared),
        cohort=setting.cohort,
    )
    return Method(
        name=name,
        phases={"start": serve(grow), "train": train},
        evaluate=evaluate(all_values, setting.test_offsets),
        predicting=all_values,
    )
