"""FedProto: clients pull their classes' features to prototypes that all share.

Tan et al., FedProto: Federated Prototype Learning across Heterogeneous Clients, AAAI 2022.

    local loss + weight * mean over the batch's classes of |mean of the batch's features of c - prototype_c|^2 / d
    prototype_c = sum_i s_ic / sum_i n_ic,      s_ic = sum of client i's features of class c, after training

Travels up: the tuned values, and for every class the sum of features and a count. All of it are sums.
Differs from the paper: models are averaged too, as in LoRM's table; there, prototypes alone travel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import Data, Method, Model, Round, State
from fedbraid.local.moments import class_moments
from fedbraid.local.objectives import Step
from fedbraid.methods.base import About, Options, Setting, model_values, require
from fedbraid.methods.fedavg import averaging, carried
from fedbraid.phases import Measured
from fedbraid.quantities import CLASS_MOMENTS

PROTOTYPE = "prototype"


@dataclass(frozen=True)
class FedProto(Options):
    """The options of FedProto."""

    weight: float = 0.1
    """Of the distance to the prototypes; 0.1 in LoRM's table."""

    about: ClassVar[About] = About(
        name="fedproto",
        title="FedProto",
        family="regularisation",
        citation="Tan et al., AAAI 2022",
        travels="tuned values, class sums of features, counts",
        adapters=("full", "lora", "none"),
    )

    def build(self, setting: Setting) -> Method:
        """`UserError` for a negative weight."""
        require(self.weight >= 0, "weight", self.weight, "must not be negative")
        train = replace(
            averaging(setting),
            objectives=(setting.objective, self._to_prototypes),
            sums=Measured(_class_sums, CLASS_MOMENTS),
            absorb=_prototypes,
        )
        return carried(self.about.name, setting, {"train": train})

    def _to_prototypes(self, step: Step) -> Tensor:
        """Zero in the first round of a task, and for classes that nobody has sent yet."""
        zero = step.features.new_zeros(())
        prototypes = step.received.get(f"{PROTOTYPE}/{step.round.task.index}")
        if prototypes is None:
            return zero
        known = step.received[f"{PROTOTYPE}_known/{step.round.task.index}"]
        places = step.batch.labels - step.round.task.classes.start
        present = [c for c in places.unique().tolist() if known[c] > 0]
        distances = [(step.features[places == c].mean(0) - prototypes[c]).square().mean() for c in present]
        return self.weight * sum(distances, zero) / max(len(distances), 1)


def _class_sums(model: Model, shared: Tensors, data: Data, round: Round) -> Tensors:
    return class_moments(model, model_values(shared), data, round, second=False)


def _prototypes(_model: Model, state: State, sums: Tensors, round: Round) -> State:
    """A class of which nobody in the cohort has samples keeps the prototype of an earlier round."""
    count, task = sums["count"], round.task.index
    means, known = (sums["first"] / count.clamp_min(1)[:, None]).float(), (count > 0).float()
    before = state.shared.get(f"{PROTOTYPE}/{task}")
    if before is not None:
        means = torch.where(count[:, None] > 0, means, before)
        known = known.maximum(state.shared[f"{PROTOTYPE}_known/{task}"])
    rest = {key: value for key, value in state.shared.items() if not key.startswith(PROTOTYPE)}
    return State({**rest, f"{PROTOTYPE}/{task}": means, f"{PROTOTYPE}_known/{task}": known}, state.server)
