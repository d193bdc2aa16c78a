"""PILoRA: one low-rank adapter a task, orthogonal to the earlier ones, and class prototypes as the classifier.

Guo et al., PILoRA: Prototype Guided Incremental LoRA for Federated Class-Incremental Learning, ECCV 2024
(arXiv 2401.02094).

The model is W0 + sum_s B_s A_s; task t trains B_t, A_t and a prototype m_c of each of its classes. With
d_c = |f - m_c|^2 / width, the local loss of a sample of class y is

    -log softmax_c(-gamma d_c)_y + compactness d_y + orthogonality sum over s < t of |A_t A_s^T|_1

and the nearest prototype of all classes seen predicts. Factors are averaged; prototypes are re-weighted by their
distances to the clients' class means (see `merges.prototypes`).
Prototypes are the rows of the head, whose last column stays zero. Since |f|^2 is common to all classes,
-gamma d_c is the affine row (2 gamma m_c, -gamma |m_c|^2) / width up to a constant: so the model predicts.

Travels up: both factors, the sample count, and each client's own prototypes, class sums of features and counts: the
server must see them one by one, so a secure sum cannot compute this method. Travels down: what is new.
Differs from the public code: all tasks' updates B_s A_s are summed, in training too (there clients train without the
earlier ones, and the tested model keeps those of the first task alone); squared distances, not their root; the
softmax is over the classes of the task, not of all tasks; a client weighs in no class that it lacks; a fused
projection is tuned as one layer, keys included; prototypes start from class means; no L1 penalty on A.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal
from urllib.parse import quote

import torch
from torch import Tensor
from torch.nn import functional as F

from fedbraid.algebra import Statistic, Tensors, prefix, select, without
from fedbraid.core import Data, Method, Model, Phase, Round, State
from fedbraid.local.moments import class_moments
from fedbraid.local.objectives import Step
from fedbraid.merges import Mean, Merge
from fedbraid.merges.base import Loss
from fedbraid.merges.prototypes import reweighted
from fedbraid.methods.base import About, Options, Setting, among, examined, head_of, require
from fedbraid.methods.task_memory import FACTORS, begin, finish, finished, require_unit_scale, summed
from fedbraid.models.adapters import Adapter
from fedbraid.phases import Measure, Measured, Train, serve
from fedbraid.quantities import CLASS_MOMENTS, VALUE, Gives, own

PROTOTYPES = replace(
    VALUE.saying("one feature vector of every class, near the client's mean of that class", "prototypes"),
    compared="size",
    clipped="nothing",
)
"""Prototypes as they travel: tuned values, of which nothing was received under the same name."""


@dataclass(frozen=True)
class PILoRA(Options):
    """The options of PILoRA."""

    layers: str = "qv"
    """The layers to adapt, in place of `adapter.layers`."""
    blocks: str = "0"
    """The blocks to adapt, in place of `adapter.blocks`."""
    start: Literal["means", "random"] = "means"
    """First prototypes: the means of the clients' features (one more round), or random ones (published)."""
    pace: float = 0.1
    """Learning rate of the factors over `training.lr`, where `lr_A` or `lr_B` is not set; 0.005 in the public code."""
    gamma: float = 10.0
    """Sharpness of the softmax over distances; 1 in the public code, on the root of d."""
    compactness: float = 0.001
    """Weight of the distance to the own prototype; 0.001 in the public code."""
    orthogonality: float = 0.5
    """Weight of the products of A with those of earlier tasks; 0.5 in the public code."""
    temperature: float = 0.2
    """Of the softmax over clients that re-weights prototypes; 0.2 in the public code."""

    about: ClassVar[About] = About(
        name="pilora",
        title="PILoRA",
        family="prototypes",
        citation="Guo et al., ECCV 2024, arXiv 2401.02094",
        travels="both low-rank factors, sample count; each client's prototypes, class sums of features, counts",
        adapters=("lora",),
    )

    def adapter(self, given: Adapter) -> Adapter:
        """The given adapter on the layers and blocks of the options."""
        return replace(given, layers=self.layers, blocks=self.blocks)

    def build(self, setting: Setting) -> Method:
        """`UserError` for options out of range, or a scale other than one."""
        for name in ("compactness", "orthogonality"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        for name in ("pace", "gamma", "temperature"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        require_unit_scale(setting.adapter, self.about.name)
        slow = dict.fromkeys(FACTORS, self.pace * setting.training.lr)
        train = Train(
            rounds=setting.rounds,
            kinds=lambda round: (*FACTORS, head_of(round)),
            training=replace(setting.training, rates={**slow, **setting.training.rates}),
            merge=_MeanOfFactors(),
            weights=lambda shared, _round: _weights(shared),
            objectives=(self._nearest, self._compact, self._orthogonal),
            sums=Measured(_own_prototypes, own({"prototypes": PROTOTYPES, **CLASS_MOMENTS})),
            absorb=self._reweight,
            cohort=setting.cohort,
        )
        means: dict[str, Phase] = {
            "means": Measure(
                Measured(_class_sums, CLASS_MOMENTS), _start_at_means, cohort=setting.cohort, evaluated=False
            )
        }
        return Method(
            name=self.about.name,
            phases={"start": serve(_start), **(means if self.start == "means" else {}), "train": train},
            evaluate=examined(setting, self._predicting),
            predicting=self._predicting,
        )

    def _nearest(self, step: Step) -> Tensor:
        """Cross-entropy of the softmax over the distances to the task's prototypes."""
        return F.cross_entropy(-self.gamma * _distances(step), _places(step))

    def _compact(self, step: Step) -> Tensor:
        """The mean distance of a feature to the prototype of its class."""
        return self.compactness * _distances(step).gather(1, _places(step)[:, None]).mean()

    def _orthogonal(self, step: Step) -> Tensor:
        """Zero in the first task."""
        inner = step.features.new_zeros(())
        for task in finished(step.received).values():
            for layer, factor in select(task, "lora_A").items():
                inner = inner + (step.parameters[f"lora_A/{layer}"] @ factor.T).abs().sum()
        return self.orthogonality * inner

    def _reweight(self, _model: Model, state: State, sums: Tensors, round: Round) -> State:
        """The state with the clients' prototypes as one."""
        count, first, prototypes = _gathered(sums)
        means = first / count.clamp_min(1)[..., None]
        merged = reweighted(prototypes, means, count > 0, temperature=self.temperature)
        return _with_prototypes(state, merged, (count > 0).any(0), round)

    def _predicting(self, shared: Tensors) -> Tensors:
        """The sum of all tasks' updates, and an affine head whose largest logit is the nearest prototype."""
        weights = _weights(shared)
        return {**weights, **{key: affine_rows(rows, self.gamma) for key, rows in among(weights, ("head",)).items()}}


@dataclass(frozen=True)
class _MeanOfFactors(Merge):
    """The mean of everything but the head, whose rows are gathered beside the merge."""

    def gives(self) -> Gives:
        return Mean().gives()

    def loses(self) -> Loss:
        return "cross terms"

    def lift(self, update: Tensors) -> Statistic:
        return Mean().lift(without(update, "head"))

    def solve(self, total: Statistic) -> Tensors:
        return Mean().solve(total)


def affine_rows(rows: Tensor, gamma: float) -> Tensor:
    """(classes, width + 1): weight and bias whose logits are -gamma |f - m|^2 / width but for what classes share."""
    prototypes = rows[:, :-1]
    scale = gamma / prototypes.shape[1]
    return torch.cat([2 * scale * prototypes, -scale * prototypes.square().sum(1, keepdim=True)], dim=1)


def _start(model: Model, state: State, round: Round) -> State:
    """The factors of the task before are kept as they are; fresh ones and fresh rows take their place."""
    shared = finish(state.shared, round.task.index - 1) if round.task.index else state.shared
    return begin(model, State(shared, state.server), round)


def _weights(shared: Tensors) -> dict[str, Tensor]:
    """What the model loads: the current factors, the sum of the earlier ones, and the prototypes as the head's rows."""
    return {**among(shared, (*FACTORS, "head")), **summed([*finished(shared).values()])}


def _distances(step: Step) -> Tensor:
    """(n, classes of the task): |f - m_c|^2 / width."""
    prototypes = step.parameters[head_of(step.round)][:, :-1]
    return (step.features.float()[:, None] - prototypes).square().mean(2)


def _places(step: Step) -> Tensor:
    """The labels, counted from the first class of the task."""
    return step.batch.labels - step.round.task.classes.start


def _class_sums(model: Model, shared: Tensors, data: Data, round: Round) -> Tensors:
    return class_moments(model, _weights(shared), data, round, second=False)


def _start_at_means(_model: Model, state: State, total: Statistic, round: Round) -> State:
    means = total["first"] / total["count"].clamp_min(1)[:, None]
    return _with_prototypes(state, means, total["count"] > 0, round)


def _own_prototypes(model: Model, shared: Tensors, data: Data, round: Round) -> Tensors:
    """What the server needs of this client by itself, under names that no other client uses."""
    prototypes = shared[head_of(round)][:, :-1]
    sent = {"prototypes": prototypes, **_class_sums(model, shared, data, round)}
    return prefix(sent, f"client/{quote(data.client, safe='')}")


def _gathered(sums: Tensors) -> tuple[Tensor, Tensor, Tensor]:
    """`count` (clients, classes), `first` and `prototypes` (clients, classes, width), in the order of client ids."""
    clients = sorted(key.removesuffix("/count") for key in sums if key.endswith("/count"))
    count, first, prototypes = (
        torch.stack([sums[f"{client}/{name}"] for client in clients]) for name in ("count", "first", "prototypes")
    )
    return count, first, prototypes


def _with_prototypes(state: State, prototypes: Tensor, known: Tensor, round: Round) -> State:
    """The state with these prototypes; a class that nobody has keeps its own."""
    rows = state.shared[head_of(round)].clone()
    rows[known, :-1] = prototypes[known].float()
    return State({**state.shared, head_of(round): rows}, state.server)
