"""LoRM: merge low-rank adapters by matching responses, one factor at a time, across clients and tasks.

Salami et al., Closed-form merging of parameter-efficient modules for federated continual learning, ICLR 2025
(arXiv 2410.17961).

Each task starts from the pre-trained weights with a fresh adapter W0 + B A. Rounds alternate: all clients share A and
train B, then share B and train A. With G_i the Gram of client i's inputs to the layer,

    B round    B* = (sum_i B_i A G_i A^T) (A sum_i G_i A^T)^-1
    A round    A* = (sum_i A_i G_i) (sum_i G_i)^-1
    tasks      dW* = (sum_t B_t A_t Gbar_t) (sum_t Gbar_t)^-1,   Gbar_t = sum_i G_i at the end of task t

The head is merged like a layer, with the Gram of the features. Until a task is consolidated, the model is
W0 + mean over tasks of B_t A_t; after it, W0 + dW*. Other adapters are merged by the same objective: VeRA, whose two
vectors are trained in turns, LoRA-XS and (IA)^3 (see `methods.lorm_kinds` and `merges.parts`).

Travels up: one factor, its right Gram (B round: r x r), the task's head with its Gram, the sample count; at the end
of a task the layers' Grams. Travels down: what is new. All of it are sums.
Differs from the public code: a B round sends the projected Gram A G A^T, from which the same B* follows, not G; only
the Gram entries that are used are accumulated; a ridge to the mean in place of a pseudo-inverse; consolidation in
factors; the head's bias is solved with its weight (`head_bias = "averaged"` averages it as published).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor

from fedbraid.algebra import Statistic, Tensors, without
from fedbraid.core import Data, Method, Model, Round, State
from fedbraid.local.measures import FEATURES, GramOf, Passes, measure_grams
from fedbraid.merges import RegMean
from fedbraid.methods import lorm_memory as memory
from fedbraid.methods.base import About, Options, Setting, examined, head_of, require
from fedbraid.methods.lorm_kinds import LORA, Kind, kind_of
from fedbraid.methods.task_memory import TASK, begin, require_unit_scale
from fedbraid.phases import Measure, Measured, Train, serve
from fedbraid.quantities import GRAMS


@dataclass(frozen=True)
class LoRM(Options):
    """The options of LoRM; the defaults are ours, the recipes `lorm/...` have the paper's."""

    gram: Literal["diagonal", "low_rank", "full"] = "diagonal"
    """The form of the Grams of A rounds and tasks; diagonal in every published command."""
    gram_rank: int = 8
    """The eigenpairs kept under `low_rank`."""
    gram_off_diagonal: float = 0.9
    """What the off-diagonals of a `full` or `low_rank` Gram are multiplied by; 0.9 as in RegMean. At 1 the merge over
    tasks fits every layer so closely by itself that together they break."""
    gram_model: Literal["trained", "averaged"] = "averaged"
    """The model that Grams are measured on: the client's own, or the published mean over the tasks with it."""
    gram_data: Literal["clean", "augmented"] = "clean"
    """Whether the inputs of Grams are augmented like training data (published) or not."""
    gram_passes: int = 1
    ridge: float = 1e-6
    """The ridge to the mean, relative to the mean diagonal entry of a Gram."""
    head_off_diagonal: float = 0.5
    """What the off-diagonals of the head's Gram are multiplied by; 0.5 in the paper (0.3 on CUB-200)."""
    head_bias: Literal["solved", "averaged"] = "solved"
    head_merge: Literal["solved", "averaged"] = "solved"
    """Whether the head is solved by its Gram (published), or averaged by samples, for clients that hold fewer samples
    than the head has columns: then no Gram of it is sent."""
    all_diagonal: bool = False
    """Whether the Grams of B rounds and of the head are diagonal too. The merge is poorer; noise can cover it."""

    about: ClassVar[About] = About(
        name="lorm",
        title="LoRM",
        family="closed form",
        citation="Salami et al., ICLR 2025, arXiv 2410.17961",
        travels="one low-rank factor, its right Gram, head and its Gram, sample count",
        adapters=("lora", "vera", "lora_xs", "ia3"),
    )

    def build(self, setting: Setting) -> Method:
        """`UserError` for options out of range, or a scale of LoRA other than one."""
        self._check()
        kind = kind_of(setting.adapter)
        if kind is LORA:
            require_unit_scale(setting.adapter, self.about.name)
        passes = Passes(self.gram_passes, self.gram_data == "augmented", protection=setting.training.protection)
        once = self.all_diagonal and passes.count == 1 and not passes.augment
        covered = kind is LORA and once and self.gram == "diagonal"
        train = Train(
            rounds=setting.rounds,
            kinds=lambda round: (trained_factor(round, kind.trained), head_of(round)),
            training=setting.training,
            merge=RegMean(self.ridge),
            objectives=(setting.objective,),
            weights=_current_task,
            measures=Measured(partial(self._round_grams, kind, passes), GRAMS),
            cohort=setting.cohort,
            covered=covered,
        )
        # Everyone with samples of the task is asked: a cohort drawn anew might have none, and the task would be lost.
        consolidate = Measure(
            Measured(partial(self._task_grams, kind, passes), GRAMS),
            partial(self._consolidate, kind),
            additive=memory.additive,
            covered=covered,
        )
        predicting = partial(memory.predicting, kind=kind)
        return Method(
            name=self.about.name,
            phases={"start": serve(partial(begin, frozen=kind.frozen)), "train": train, "consolidate": consolidate},
            evaluate=examined(setting, predicting),
            predicting=predicting,
        )

    def _check(self) -> None:
        for name in ("gram_off_diagonal", "head_off_diagonal"):
            factor = getattr(self, name)
            require(0 <= factor <= 1, name, factor, "off-diagonals are multiplied by 0 to 1")
        for name in ("gram_rank", "gram_passes"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        require(self.ridge >= 0, "ridge", self.ridge, "must not be negative")

    def _round_grams(
        self, kind: Kind, passes: Passes, model: Model, shared: Tensors, data: Data, round: Round
    ) -> Tensors:
        """The right Grams of what was trained, and of the head."""
        trained = trained_factor(round, kind.trained)
        wanted = [kind.round_gram(model, shared, trained, layer, self._gram_of_layer) for layer in model.layers]
        if self.head_merge == "solved":
            wanted = [self._gram_of_head(round), *wanted]
        if self.all_diagonal:
            wanted = [replace(gram, form="diagonal") for gram in wanted]
        return measure_grams(model, self._weights(kind, shared, round), data, round, wanted=wanted, passes=passes)

    def _task_grams(
        self, kind: Kind, passes: Passes, model: Model, shared: Tensors, data: Data, round: Round
    ) -> Tensors:
        """The Grams of all layers at the end of a task."""
        wanted = [kind.task_gram(model, shared, layer, self._gram_of_layer) for layer in model.layers]
        return measure_grams(model, self._weights(kind, shared, round), data, round, wanted=wanted, passes=passes)

    def _weights(self, kind: Kind, shared: Tensors, round: Round) -> Tensors:
        """The model that Grams are measured on."""
        return _current_task(shared, round) if self.gram_model == "trained" else memory.averaged(shared, kind)

    def _gram_of_layer(
        self, key: str, layer: str, *, projection: tuple[Tensor, ...] = (), entrywise: Tensor | None = None
    ) -> GramOf:
        """A Gram in the form of the options."""
        rank, shrunk = self.gram_rank, self.gram_off_diagonal
        return GramOf(key, layer, self.gram, projection, rank, shrunk, entrywise=entrywise)

    def _gram_of_head(self, round: Round) -> GramOf:
        ones = "joined" if self.head_bias == "solved" else "apart"
        return GramOf(head_of(round), FEATURES, off_diagonal=self.head_off_diagonal, ones=ones)

    def _consolidate(self, kind: Kind, _model: Model, state: State, total: Statistic, round: Round) -> State:
        return memory.remember(state, total, round.task.index, ridge=self.ridge, kind=kind)


def trained_factor(round: Round, kinds: Sequence[str] = LORA.trained) -> str:
    """What a round trains: in round 0 of every task the first of these kinds, then the next: B, A, B, ..."""
    return kinds[round.index % len(kinds)]


def _current_task(shared: Tensors, _round: Round) -> Tensors:
    """The pre-trained weights with the adapter of this task alone."""
    return without(shared, TASK, memory.SOLVED)
