"""What LoRM keeps of finished tasks, and the low-rank terms that follow from it.

Shared with the clients, by task t and layer:
    task/<t>/lora_A/<layer>, task/<t>/lora_B/<layer>    the factors at the end of the task; they never change again
    solved/<t>/<layer>                                  A'_t of `merges.lorm`; where Grams are diagonal, c_t
On the server:
    gram/<t>/<layer>                                    diagonal Grams, by task
    gram/<layer>, product/<t>/<layer>                   other Grams: their sum over tasks, and A_t G_t

So a download after a task is one vector a layer where Grams are diagonal, and nothing dense exists anywhere but the sum
of the Grams.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedbraid.algebra import Statistic, Tensors, prefix, select, without
from fedbraid.core import State
from fedbraid.linalg import from_triangle, to_triangle
from fedbraid.merges import grams
from fedbraid.merges.lorm import column_scales, right_factors

TASK = "task"
SOLVED = "solved"


def additive(update: Tensors) -> Statistic:
    """Grams in a form that adds: low rank plus diagonal is expanded."""
    return Statistic(
        {name: t for key in grams.measured(update) for name, t in grams.write(key, grams.read(update, key)).items()}
    )


def averaged(shared: Tensors) -> dict[str, Tensor]:
    """Weights of the model with the mean over tasks, the current one included."""
    tasks = [*_tasks(shared).values()]
    if any(key.startswith("lora_B/") for key in shared):
        tasks.append({key: shared[key] for key in shared if key.startswith(("lora_A/", "lora_B/"))})
    return _with_delta(shared, {t: (task, 1 / len(tasks)) for t, task in enumerate(tasks)})


def predicting(shared: Tensors) -> dict[str, Tensor]:
    """Weights to predict with: the mean over tasks inside a task, the closed form over tasks after it."""
    if any(key.startswith("lora_B/") for key in shared):
        return averaged(shared)
    solved = {int(t): select(shared, f"{SOLVED}/{t}") for t in _tasks(shared)}
    return _with_delta(shared, {t: (task, solved[t]) for t, task in _tasks(shared).items()})


def remember(state: State, total: Statistic, task: int, *, ridge: float) -> State:
    """The state after a task: its factors and Grams are kept, and the closed form over all tasks is solved anew."""
    factors = {key: state.shared[key] for key in state.shared if key.startswith(("lora_A/", "lora_B/"))}
    shared = {**without(state.shared, "lora_A", "lora_B", SOLVED), **prefix(factors, f"{TASK}/{task}")}
    server = dict(state.server)
    for key in grams.measured(total):
        layer = key.removeprefix("lora_A/")
        gram = grams.read(total, key)
        solve = _solve_diagonal if gram.ndim == 1 else _solve_dense
        for t, solved in enumerate(solve(server, shared, gram, layer, task, ridge)):
            shared[f"{SOLVED}/{t}/{layer}"] = solved.float()
    return State(shared, server)


def _solve_diagonal(
    server: dict[str, Tensor], _shared: Tensors, gram: Tensor, layer: str, task: int, ridge: float
) -> list[Tensor]:
    server[f"gram/{task}/{layer}"] = gram
    return column_scales([server[f"gram/{t}/{layer}"] for t in range(task + 1)], ridge=ridge)


def _solve_dense(
    server: dict[str, Tensor], shared: Tensors, gram: Tensor, layer: str, task: int, ridge: float
) -> list[Tensor]:
    factors = [shared[f"{TASK}/{t}/lora_A/{layer}"] for t in range(task + 1)]
    server[f"product/{task}/{layer}"] = grams.times(factors[task], gram)
    summed = to_triangle(gram) + server.get(f"gram/{layer}", 0)
    server[f"gram/{layer}"] = summed
    products = [server[f"product/{t}/{layer}"] for t in range(task + 1)]
    return right_factors(factors, products, from_triangle(summed), ridge=ridge)


def _tasks(shared: Tensors) -> dict[int, dict[str, Tensor]]:
    """The factors of the finished tasks, in order."""
    indices = sorted({int(key.split("/")[1]) for key in shared if key.startswith(f"{TASK}/")})
    return {t: select(shared, f"{TASK}/{t}") for t in indices}


def _with_delta(shared: Tensors, tasks: Mapping[int, tuple[Tensors, float | Tensors]]) -> dict[str, Tensor]:
    """The heads, and one low-rank term that is the sum of the tasks' updates under their weights."""
    weights = without(shared, "lora_A", "lora_B", TASK, SOLVED)
    layers = [key.removeprefix("lora_B/") for key in next(iter(tasks.values()))[0] if key.startswith("lora_B/")]
    for layer in layers:
        weights[f"delta_B/{layer}"] = torch.cat([task[f"lora_B/{layer}"] for task, _ in tasks.values()], dim=1)
        rights = [_right(task[f"lora_A/{layer}"], weight, layer) for task, weight in tasks.values()]
        weights[f"delta_A/{layer}"] = torch.cat(rights)
    return weights


def _right(factor: Tensor, weight: float | Tensors, layer: str) -> Tensor:
    """The right factor under its weight: one number, a number a column, or the solved factor itself."""
    if isinstance(weight, (int, float)):
        return factor * weight
    solved: Tensor = weight[layer]
    return factor * solved if solved.ndim == 1 else solved
