"""CODA-Prompt: a prompt is a weighted sum of components, whose weights are learned from end to end.

Smith et al., CODA-Prompt: COntinual Decomposed Attention-based Prompting for Rehearsal-Free Continual Learning,
CVPR 2023.

    q = class token of x under the plain backbone
    p = sum_m cos(q * a_m, k_m) P_m        in every block, over the components m of all tasks so far
    attention of a block = softmax(q [p_k; k]^T / sqrt d) [p_v; v],   p_k and p_v the halves of p
    local loss + orthogonality sum_M |M M^T - 1|^2 over M = P, K, A,      then the mean of FedAvg

Every task trains components of its own; those of earlier tasks take part frozen.
Travels up: the task's components with their keys and attentions, the task's head and the sample count.
Differs from public code: a task brings its components, where a pool is split over a number of tasks that is known
before; the penalty is the mean over the entries of each Gram matrix, and it is in effect (there it is scaled by 1e-6,
set to zero, or left out of the loss); fresh components are normal of unit length, so nearly orthonormal, where newer
code orthogonalises them against the old ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedbraid.algebra import Tensors, prefix
from fedbraid.core import Method, Round
from fedbraid.methods.base import About, Setting, require
from fedbraid.methods.prompting import PromptOptions, prompted, prompting, require_blocks
from fedbraid.models.prompts import Chosen, by_block, by_task, existing


@dataclass(frozen=True)
class CODAPrompt(PromptOptions):
    """The options of CODA-Prompt. Of the blocks, those count that the backbone has."""

    components: int = 10
    """Components that every task brings; a pool of 100 for ten tasks in the paper."""
    length: int = 8
    """Vectors of a component: the first half joins the keys, the second the values."""
    blocks: tuple[int, ...] = (0, 1, 2, 3, 4)
    orthogonality: float = 0.1
    """The weight of the distance of components, keys and attentions from orthonormal ones."""

    about: ClassVar[About] = About(
        name="coda_prompt",
        title="CODA-Prompt",
        family="prompts",
        citation="Smith et al., CVPR 2023",
        travels="the task's prompt components, their keys and attentions, head, sample count",
        adapters=("prompt",),
        modalities=("image",),
    )

    def build(self, setting: Setting) -> Method:
        """`UserError` for options out of range."""
        require(self.components >= 1, "components", self.components, "must be at least 1")
        require(self.length >= 2 and self.length % 2 == 0, "length", self.length, "must be even, and at least 2")
        require_blocks("blocks", self.blocks)
        require(self.orthogonality >= 0, "orthogonality", self.orthogonality, "must not be negative")
        train = prompting(setting, lambda round: (f"prompt/{round.task.index}",))
        return prompted(self.about.name, setting, train, _own)

    def shapes(self, width: int, depth: int) -> Mapping[str, tuple[int, ...]]:
        """Of one task: components (flat), keys and attentions for every block."""
        rows = (len(existing(self.blocks, depth, "blocks")), self.components)
        return {"component": (*rows, self.length * width), "key": (*rows, width), "attention": (*rows, width)}

    def choose(self, values: Tensors, query: Tensor) -> Chosen:
        """The weighted sum of the components so far, by block."""
        components, keys, attentions = (
            torch.cat(by_task(values, name), dim=1) for name in ("component", "key", "attention")
        )
        weights = _cosines(query, attentions, keys)
        summed = torch.einsum("nbm,bmd->nbd", weights, components)
        halves = summed.unflatten(-1, (2, self.length // 2, query.shape[1]))
        distances = [_from_orthonormal(vectors) for vectors in (components, keys, attentions)]
        return Chosen(self.orthogonality * torch.stack(distances).sum(), prefixes=by_block(self.blocks, halves))


def _own(fresh: Tensors, round: Round) -> Tensors:
    """All that is drawn is the task's own."""
    return prefix(fresh, f"prompt/{round.task.index}")


def _cosines(query: Tensor, attentions: Tensor, keys: Tensor) -> Tensor:
    """cos(q * a, k) of queries (n, d) with attentions and keys (blocks, m, d): (n, blocks, m).

    Both `(q * a) k = q (a * k)` and `|q * a|^2 = q^2 a^2` are products, so nothing of size n * m * d is needed.
    """
    products = torch.einsum("nd,bmd->nbm", query, attentions * keys)
    squares = torch.einsum("nd,bmd->nbm", query.square(), attentions.square()) * keys.square().sum(-1)
    return products / squares.clamp_min(1e-12).sqrt()


def _from_orthonormal(vectors: Tensor) -> Tensor:
    """The mean of `(M M^T - 1)^2` over the entries, summed over the blocks, of (blocks, m, d)."""
    gram = vectors @ vectors.transpose(1, 2)
    return (gram - torch.eye(gram.shape[1], device=gram.device)).square().mean((1, 2)).sum()
