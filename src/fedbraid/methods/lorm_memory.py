"""What LoRM keeps of finished tasks, and what the model loads of it.

Shared with the clients beside the values of finished tasks (see `methods.task_memory`), by task t and layer:
    solved/<t>/<layer>                                  A'_t of `merges.lorm`; where Grams are diagonal, c_t
On the server:
    gram/<t>/<layer>                                    diagonal Grams, by task
    gram/<layer>, product/<t>/<layer>                   other Grams: their sum over tasks, and A_t G_t

Every kind of adapter has its A_t (see `methods.lorm_kinds`), LoRA its factor. So a download after a task is one vector
a layer and task where Grams are diagonal, and nothing dense exists anywhere but the sum of the Grams.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fedbraid.algebra import Statistic, Tensors, select, without
from fedbraid.core import State
from fedbraid.linalg import from_triangle, to_triangle
from fedbraid.merges import grams
from fedbraid.merges.lorm import column_scales, right_factors
from fedbraid.methods.base import among
from fedbraid.methods.lorm_kinds import LORA, Kind
from fedbraid.methods.task_memory import TASK, finish, finished

SOLVED = "solved"
Weighted = Sequence[tuple[Tensors, float | Tensors]]
"""Tasks' values, each with its weight in the sum: one number, or what was solved, by layer."""


def additive(update: Tensors) -> Statistic:
    """Grams in a form that adds: low rank plus diagonal is expanded."""
    return Statistic(
        {name: t for key in grams.measured(update) for name, t in grams.write(key, grams.read(update, key)).items()}
    )


def averaged(shared: Tensors, kind: Kind = LORA) -> dict[str, Tensor]:
    """Weights of the model with the mean over tasks, the current one included."""
    tasks = [*finished(shared).values()]
    current = among(shared, kind.trained)
    if current:
        tasks.append(current)
    return _with_sum(shared, kind, [(task, 1 / len(tasks)) for task in tasks])


def predicting(shared: Tensors, kind: Kind = LORA) -> dict[str, Tensor]:
    """Weights to predict with: the mean over tasks inside a task, the closed form over tasks after it."""
    if among(shared, kind.trained):
        return averaged(shared, kind)
    return _with_sum(shared, kind, [(task, select(shared, f"{SOLVED}/{t}")) for t, task in finished(shared).items()])


def remember(state: State, total: Statistic, task: int, *, ridge: float, kind: Kind = LORA) -> State:
    """The state after a task: its values and Grams are kept, and the closed form over all tasks is solved anew."""
    shared = finish(without(state.shared, SOLVED), task, kind.trained)
    server = dict(state.server)
    tasks = finished(shared)  # a task of which nobody had samples has left nothing
    for key in grams.measured(total):
        layer = key.split("/", 1)[1]
        gram = grams.read(total, key)
        if gram.ndim == 1:
            solutions = _solve_diagonal(server, gram, layer, list(tasks), ridge)
        else:
            rights = {t: kind.factors(shared, values, layer)[1] for t, values in tasks.items()}
            solutions = _solve_dense(server, rights, gram, layer, ridge)
        for t, solved in zip(tasks, solutions, strict=True):
            shared[f"{SOLVED}/{t}/{layer}"] = solved.float()
    return State(shared, server)


def _solve_diagonal(
    server: dict[str, Tensor], gram: Tensor, layer: str, tasks: Sequence[int], ridge: float
) -> list[Tensor]:
    server[f"gram/{tasks[-1]}/{layer}"] = gram
    return column_scales([server[f"gram/{t}/{layer}"] for t in tasks], ridge=ridge)


def _solve_dense(
    server: dict[str, Tensor], rights: dict[int, Tensor], gram: Tensor, layer: str, ridge: float
) -> list[Tensor]:
    last = max(rights)
    server[f"product/{last}/{layer}"] = grams.times(rights[last], gram)
    summed = to_triangle(gram) + server.get(f"gram/{layer}", 0)
    server[f"gram/{layer}"] = summed
    products = [server[f"product/{t}/{layer}"] for t in rights]
    return right_factors(list(rights.values()), products, from_triangle(summed), ridge=ridge)


def _with_sum(shared: Tensors, kind: Kind, tasks: Weighted) -> dict[str, Tensor]:
    """The heads and what all tasks share, with one update that is the sum of the tasks' under their weights."""
    weights = without(shared, *kind.trained, TASK, SOLVED)
    for layer in select(tasks[0][0], kind.trained[0]) if tasks else ():
        pairs = [(kind.factors(shared, values, layer), weight) for values, weight in tasks]
        weights |= kind.merged(layer, [(left, _right(right, weight, layer)) for (left, right), weight in pairs])
    return weights


def _right(factor: Tensor, weight: float | Tensors, layer: str) -> Tensor:
    """The right factor under its weight: one number, a number a column, or the solved factor itself."""
    if isinstance(weight, (int, float)):
        return factor * weight
    solved: Tensor = weight[layer]
    return factor * solved if solved.ndim == 1 else solved
