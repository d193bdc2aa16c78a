"""One adapter a task: what is kept of finished tasks, and their sum.

Shared with the clients, by task t and layer:
    task/<t>/lora_A/<layer>, task/<t>/lora_B/<layer>    the factors at the end of the task; they never change again

Other kinds of adapters have other values there. What moves here is known to the clients by its content, so it does not
travel a second time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedbraid.algebra import Tensors, prefix, select, without
from fedbraid.core import Model, Round, State
from fedbraid.errors import UserError
from fedbraid.methods.base import among, grow
from fedbraid.models.adapters import Adapter

TASK = "task"
FACTORS = ("lora_A", "lora_B")


def require_unit_scale(adapter: Adapter, method: str) -> None:
    """`UserError` for a LoRA scale other than one, which the sum over tasks would not carry."""
    if adapter.scale != 1:
        raise UserError(f"method {method!r} has LoRA scale 1; remove adapter.alpha = {adapter.alpha:g}")


def begin(model: Model, state: State, round: Round, frozen: Sequence[str] = ()) -> State:
    """A task begins with fresh values, drawn by the server, and a fresh head; `frozen` kinds stay as they are."""
    grown = grow(model, state, round)
    fresh = model.fresh(round.generator("adapter"))
    return State({**grown.shared, **fresh, **among(state.shared, frozen)}, grown.server)


def finish(shared: Tensors, task: int, kinds: Sequence[str] = FACTORS) -> dict[str, Tensor]:
    """The shared values with those in training put among those of finished tasks."""
    return {**without(shared, *kinds), **prefix(among(shared, kinds), f"{TASK}/{task}")}


def finished(shared: Tensors) -> dict[int, dict[str, Tensor]]:
    """The values of the finished tasks, in order."""
    indices = sorted({int(key.split("/")[1]) for key in shared if key.startswith(f"{TASK}/")})
    return {t: select(shared, f"{TASK}/{t}") for t in indices}


def summed(tasks: Sequence[Tensors]) -> dict[str, Tensor]:
    """`sum_t B_t A_t` as one low-rank term a layer, `delta_B` and `delta_A`; nothing for no tasks."""
    layers = select(tasks[0], "lora_B") if tasks else {}
    delta: dict[str, Tensor] = {}
    for layer in layers:
        delta[f"delta_B/{layer}"] = torch.cat([task[f"lora_B/{layer}"] for task in tasks], dim=1)
        delta[f"delta_A/{layer}"] = torch.cat([task[f"lora_A/{layer}"] for task in tasks])
    return delta
