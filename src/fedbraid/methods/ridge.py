"""What the ridge methods share: features as they are or random ones, summed over clients and tasks, and solved.

client    sum f f^T, and sum f by class, of the task's samples in two parts: to fit, and held out
server    adds them to those of all tasks, chooses the ridge on what is held out, solves the head of all classes on
          both parts together (see `merges.ridge`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedbraid.algebra import Statistic, Tensors, prefix, select
from fedbraid.core import Data, Method, Model, Phase, Round, State
from fedbraid.linalg import from_triangle
from fedbraid.local.moments import RIDGE_MOMENTS, ridge_moments
from fedbraid.merges.ridge import Moments, choose_ridge, ridge_head
from fedbraid.methods.base import Options, Setting, examined, model_values, require
from fedbraid.models.random_features import projection
from fedbraid.phases import Measure, Measured, first_task, serve

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Candidates, relative to the mean diagonal entry of the Gram. Below them the rounding of the wire would count."""


@dataclass(frozen=True)
class RidgeOptions(Options):
    """The options of every ridge method."""

    ridges: tuple[float, ...] = RIDGES
    """Candidates of the ridge, relative to the mean diagonal entry of the Gram; one alone is taken as it is."""
    held_out: float = 0.1
    """The share of samples on which the ridge is chosen."""

    def solved(self, setting: Setting, *, size: int, before: Mapping[str, Phase] | None = None) -> Method:
        """A round a task on `size` random features, after the phases `before`; it predicts with what is shared."""
        phases = ridge_phases(setting, size=size, ridges=self.ridges, held_out=self.held_out)
        return Method(self.about.name, {**(before or {}), **phases}, examined(setting, model_values), model_values)


def ridge_phases(setting: Setting, *, size: int, ridges: Sequence[float], held_out: float) -> dict[str, Phase]:
    """One round a task; `size` random features, or the features themselves where it is zero."""
    require(size >= 0, "features", size, "must not be negative; 0 takes the features as they are")
    require(len(ridges) > 0 and min(ridges) > 0, "ridges", tuple(ridges), "must be numbers above 0")
    several = len(ridges) > 1
    require(0 < held_out < 1 or not several, "held_out", held_out, "must lie between 0 and 1 to choose a ridge")
    share = held_out if several else 0.0

    def moments(model: Model, shared: Tensors, data: Data, round: Round) -> Tensors:
        return ridge_moments(model, model_values(shared), data, round, held_out=share)

    def solve(_model: Model, state: State, total: Statistic, round: Round) -> State:
        server = _added(state.server, prefix(total, "ridge"))
        sums, ridge = _moments(server, "fit", round), ridges[0]
        if several:
            held = _moments(server, "held", round)
            sums, ridge = sums + held, choose_ridge(sums, held, ridges)
        head = ridge_head(sums, ridge)
        offsets = round.task.offsets
        rows = {f"head/{t}": head[offsets[t] : offsets[t + 1]].float() for t in range(round.task.index + 1)}
        return State({**state.shared, **rows}, server)

    def project(_model: Model, state: State, round: Round) -> State:
        return State({**state.shared, "projection": projection(round.derive("projection"), size)}, state.server)

    drawn = {"project": serve(project, tasks=first_task)} if size else {}
    return {**drawn, "ridge": Measure(Measured(moments, RIDGE_MOMENTS), solve, cohort=setting.cohort)}


def _added(server: Tensors, total: Tensors) -> dict[str, Tensor]:
    """The server's sums with those of this task: the same keys add, a task's own product is new."""
    return {**server, **{key: value + server[key] if key in server else value for key, value in total.items()}}


def _moments(server: Tensors, part: str, round: Round) -> Moments:
    """Those of all tasks so far; a task of which nobody had samples adds nothing."""
    known = select(server, f"ridge/{part}")
    gram, offsets = from_triangle(known["gram"]), round.task.offsets
    product = gram.new_zeros(round.task.seen, len(gram))
    for task in range(round.task.index + 1):
        if f"product/{task}" in known:
            product[offsets[task] : offsets[task + 1]] = known[f"product/{task}"]
    return Moments(gram, product, known["count"])
