"""What LoRM trains and measures of each kind of adapter, and what it keeps of a task.

    adapter    rounds train        a task's update of a layer       its coordinates z      Gram over tasks
    lora       B, A, B, ...        B_t A_t x                        x                      G
    vera       b, d, b, ...        diag(b_t) B diag(d_t) z          A x, A shared          A G A^T
    lora_xs    R                   B (R_t z)                        A x, A and B shared    A G A^T
    ia3        l                   l_t, which scales z              what is scaled         see `merges.parts`

In all of them the update is linear in what is kept: `left_t right_t` of the coordinates that all tasks share, where
`right_t` is A_t, the identity, or l_t. So one consolidation serves all (see `methods.lorm_memory`); the Grams of the
rounds stand in `merges.parts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import Model
from fedbraid.local.measures import GramOf
from fedbraid.low_rank import Factors
from fedbraid.merges.parts import inner_squares
from fedbraid.models.adapters import Adapter
from fedbraid.models.tuning.ia3 import scales_input
from fedbraid.models.tuning.vera import left_factor, left_matrix, right_matrix


class Own(Protocol):
    """A Gram in the form that the options ask for where the published one is diagonal."""

    def __call__(
        self, key: str, layer: str, *, projection: tuple[Tensor, ...] = (), entrywise: Tensor | None = None
    ) -> GramOf: ...


class Kind(Protocol):
    """One kind of adapter."""

    @property
    def trained(self) -> tuple[str, ...]:
        """The kinds of values that rounds train, in turns."""
        ...

    @property
    def frozen(self) -> tuple[str, ...]:
        """The kinds of values that are the same in all tasks."""
        ...

    def round_gram(self, model: Model, shared: Tensors, kind: str, layer: str, own: Own) -> GramOf:
        """The Gram by which the layer's value of this kind is merged over the clients."""
        ...

    def task_gram(self, model: Model, shared: Tensors, layer: str, own: Own) -> GramOf:
        """The Gram by which the layer's updates are merged over the tasks."""
        ...

    def factors(self, shared: Tensors, task: Tensors, layer: str) -> Factors:
        """(left, right) of one task's update in the shared coordinates."""
        ...

    def merged(self, layer: str, pairs: Sequence[Factors]) -> dict[str, Tensor]:
        """What the model loads for the sum of these products."""
        ...


@dataclass(frozen=True)
class LoRAKind:
    """Both factors are the task's own; their sum over tasks stays in factors."""

    trained: tuple[str, ...] = ("lora_B", "lora_A")
    frozen: tuple[str, ...] = ()

    def round_gram(self, model: Model, shared: Tensors, kind: str, layer: str, own: Own) -> GramOf:
        if kind == "lora_B":
            return GramOf(f"lora_B/{layer}", layer, projection=shared[f"lora_A/{layer}"])
        return self.task_gram(model, shared, layer, own)

    def task_gram(self, model: Model, shared: Tensors, layer: str, own: Own) -> GramOf:  # noqa: ARG002
        return own(f"lora_A/{layer}", layer)

    def factors(self, shared: Tensors, task: Tensors, layer: str) -> Factors:  # noqa: ARG002
        return task[f"lora_B/{layer}"], task[f"lora_A/{layer}"]

    def merged(self, layer: str, pairs: Sequence[Factors]) -> dict[str, Tensor]:
        left, right = torch.cat([left for left, _ in pairs], dim=1), torch.cat([right for _, right in pairs])
        return {f"delta_B/{layer}": left, f"delta_A/{layer}": right}


@dataclass(frozen=True)
class VeraKind:
    """Two vectors are the task's own; over tasks the sum is one matrix M (d_out x r) over the shared A."""

    trained: tuple[str, ...] = ("vera_b", "vera_d")
    frozen: tuple[str, ...] = ("vera",)

    def round_gram(self, model: Model, shared: Tensors, kind: str, layer: str, own: Own) -> GramOf:  # noqa: ARG002
        d_out, d_in = model.layers[layer]
        left, right = left_matrix(shared["vera"], d_out), right_matrix(shared["vera"], d_in)
        if kind == "vera_b":
            chain = (right, left * shared[f"vera_d/{layer}"])
            return GramOf(f"vera_b/{layer}", layer, "diagonal", projection=chain)
        squares = inner_squares(left, shared[f"vera_b/{layer}"])
        return GramOf(f"vera_d/{layer}", layer, projection=right, entrywise=squares)

    def task_gram(self, model: Model, shared: Tensors, layer: str, own: Own) -> GramOf:
        right = right_matrix(shared["vera"], model.layers[layer][1])
        return own(f"vera_M/{layer}", layer, projection=(right,))

    def factors(self, shared: Tensors, task: Tensors, layer: str) -> Factors:
        b, d = task[f"vera_b/{layer}"], task[f"vera_d/{layer}"]
        return left_factor(shared["vera"], b, d), torch.eye(len(d))

    def merged(self, layer: str, pairs: Sequence[Factors]) -> dict[str, Tensor]:
        return {f"vera_M/{layer}": _product(pairs)}


@dataclass(frozen=True)
class LoRAXSKind:
    """The r x r middle is the task's own, and so is its sum over tasks."""

    trained: tuple[str, ...] = ("core_R",)
    frozen: tuple[str, ...] = ("core_A", "core_B")

    def round_gram(self, model: Model, shared: Tensors, kind: str, layer: str, own: Own) -> GramOf:  # noqa: ARG002
        return GramOf(f"core_R/{layer}", layer, projection=shared[f"core_A/{layer}"])

    def task_gram(self, model: Model, shared: Tensors, layer: str, own: Own) -> GramOf:  # noqa: ARG002
        return own(f"core_R/{layer}", layer, projection=(shared[f"core_A/{layer}"],))

    def factors(self, shared: Tensors, task: Tensors, layer: str) -> Factors:  # noqa: ARG002
        core = task[f"core_R/{layer}"]
        return core, torch.eye(len(core))

    def merged(self, layer: str, pairs: Sequence[Factors]) -> dict[str, Tensor]:
        return {f"core_R/{layer}": _product(pairs)}


@dataclass(frozen=True)
class IA3Kind:
    """A vector is the task's own: a row, whose Gram is that of what it scales."""

    adapter: Adapter
    trained: tuple[str, ...] = ("scaling",)
    frozen: tuple[str, ...] = ()

    def round_gram(self, model: Model, shared: Tensors, kind: str, layer: str, own: Own) -> GramOf:  # noqa: ARG002
        return self.task_gram(model, shared, layer, own)

    def task_gram(self, model: Model, shared: Tensors, layer: str, own: Own) -> GramOf:  # noqa: ARG002
        key, scaled = f"scaling/{layer}", f"{layer}.scaling"
        if not scales_input(self.adapter, layer, model.layers[layer]):
            return GramOf(key, scaled, "diagonal")
        gram = own(key, scaled)
        if gram.form == "diagonal":  # the columns' squares are everyone's alike, and cancel
            return gram
        weight = model.values((f"weight/{layer}",))[f"weight/{layer}"]
        return own(key, scaled, entrywise=inner_squares(weight))

    def factors(self, shared: Tensors, task: Tensors, layer: str) -> Factors:  # noqa: ARG002
        return torch.ones(1, 1), task[f"scaling/{layer}"][None]

    def merged(self, layer: str, pairs: Sequence[Factors]) -> dict[str, Tensor]:
        return {f"scaling/{layer}": _product(pairs)[0]}


LORA = LoRAKind()


def kind_of(adapter: Adapter) -> Kind:
    """The kind of this adapter."""
    return {"lora": LORA, "vera": VeraKind(), "lora_xs": LoRAXSKind(), "ia3": IA3Kind(adapter)}[adapter.kind]


def _product(pairs: Sequence[Factors]) -> Tensor:
    return torch.stack([left.double() @ right.double() for left, right in pairs]).sum(0).float()
