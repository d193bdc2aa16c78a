"""What LoRM keeps of finished tasks, and the low-rank terms that follow from it.

Shared with the clients beside the factors of finished tasks (see `methods.task_memory`), by task t and layer:
    solved/<t>/<layer>                                  A'_t of `merges.lorm`; where Grams are diagonal, c_t
On the server:
    gram/<t>/<layer>                                    diagonal Grams, by task
    gram/<layer>, product/<t>/<layer>                   other Grams: their sum over tasks, and A_t G_t

So a download after a task is one vector a layer where Grams are diagonal, and nothing dense exists anywhere but the sum
of the Grams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fedbraid.algebra import Statistic, Tensors, select, without
from fedbraid.core import State
from fedbraid.linalg import from_triangle, to_triangle
from fedbraid.merges import grams
from fedbraid.merges.lorm import column_scales, right_factors
from fedbraid.methods.base import among
from fedbraid.methods.task_memory import FACTORS, TASK, finish, finished, summed

SOLVED = "solved"


def additive(update: Tensors) -> Statistic:
    """Grams in a form that adds: low rank plus diagonal is expanded."""
    return Statistic(
        {name: t for key in grams.measured(update) for name, t in grams.write(key, grams.read(update, key)).items()}
    )


def averaged(shared: Tensors) -> dict[str, Tensor]:
    """Weights of the model with the mean over tasks, the current one included."""
    tasks = [*finished(shared).values()]
    current = among(shared, FACTORS)
    if current:
        tasks.append(current)
    return _with_delta(shared, {t: (task, 1 / len(tasks)) for t, task in enumerate(tasks)})


def predicting(shared: Tensors) -> dict[str, Tensor]:
    """Weights to predict with: the mean over tasks inside a task, the closed form over tasks after it."""
    if among(shared, FACTORS):
        return averaged(shared)
    return _with_delta(shared, {t: (task, select(shared, f"{SOLVED}/{t}")) for t, task in finished(shared).items()})


def remember(state: State, total: Statistic, task: int, *, ridge: float) -> State:
    """The state after a task: its factors and Grams are kept, and the closed form over all tasks is solved anew."""
    shared = finish(without(state.shared, SOLVED), task)
    server = dict(state.server)
    tasks = list(finished(shared))  # a task of which nobody had samples has left nothing
    for key in grams.measured(total):
        layer = key.removeprefix("lora_A/")
        gram = grams.read(total, key)
        solve = _solve_diagonal if gram.ndim == 1 else _solve_dense
        for t, solved in zip(tasks, solve(server, shared, gram, layer, tasks, ridge), strict=True):
            shared[f"{SOLVED}/{t}/{layer}"] = solved.float()
    return State(shared, server)


def _solve_diagonal(
    server: dict[str, Tensor], _shared: Tensors, gram: Tensor, layer: str, tasks: Sequence[int], ridge: float
) -> list[Tensor]:
    server[f"gram/{tasks[-1]}/{layer}"] = gram
    return column_scales([server[f"gram/{t}/{layer}"] for t in tasks], ridge=ridge)


def _solve_dense(
    server: dict[str, Tensor], shared: Tensors, gram: Tensor, layer: str, tasks: Sequence[int], ridge: float
) -> list[Tensor]:
    factors = [shared[f"{TASK}/{t}/lora_A/{layer}"] for t in tasks]
    server[f"product/{tasks[-1]}/{layer}"] = grams.times(factors[-1], gram)
    summed = to_triangle(gram) + server.get(f"gram/{layer}", 0)
    server[f"gram/{layer}"] = summed
    products = [server[f"product/{t}/{layer}"] for t in tasks]
    return right_factors(factors, products, from_triangle(summed), ridge=ridge)


def _with_delta(shared: Tensors, tasks: Mapping[int, tuple[Tensors, float | Tensors]]) -> dict[str, Tensor]:
    """The heads, and one low-rank term that is the sum of the tasks' updates under their weights."""
    weighted = [_weighted(task, weight) for task, weight in tasks.values()]
    return {**without(shared, *FACTORS, TASK, SOLVED), **summed(weighted)}


def _weighted(task: Tensors, weight: float | Tensors) -> dict[str, Tensor]:
    """The task's factors with the right ones under their weight."""
    rights = {f"lora_A/{layer}": _right(factor, weight, layer) for layer, factor in select(task, "lora_A").items()}
    return {**task, **rights}


def _right(factor: Tensor, weight: float | Tensors, layer: str) -> Tensor:
    """The right factor under its weight: one number, a number a column, or the solved factor itself."""
    if isinstance(weight, (int, float)):
        return factor * weight
    solved: Tensor = weight[layer]
    return factor * solved if solved.ndim == 1 else solved
