"""DualPrompt: general prompts for all tasks in the first blocks, an expert for each task in the next ones.

Wang et al., DualPrompt: Complementary Prompting for Rehearsal-free Continual Learning, ECCV 2022.

    q = class token of x under the plain backbone;  t = the task of x in training, argmax_t cos(q, k_t) in prediction
    attention of a block = softmax(q [p_k; k]^T / sqrt d) [p_v; v],   p of the general prompt or of expert t
    local loss + matching (1 - cos(q, k_t)),      then the mean of FedAvg

A client that trains task t is given no other expert than that of t, so t is the nearest to all of its images.
Travels up: the general prompts, the task's expert and key, the task's head and the sample count.
Differs from public code: the nearest key is each image's own (the batch votes there); experts are drawn anew, not
copied from the task before; first values are normal of unit length. A length counts pairs of key and value vectors, as
in the authors' code; the paper's text splits a prompt of that length in two halves, which 5 has not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedbraid.algebra import Tensors, prefix
from fedbraid.core import Method, Round
from fedbraid.methods.base import About, Setting, model_values, require
from fedbraid.methods.prompting import PromptOptions, prompted, prompting, require_blocks
from fedbraid.models.prompts import Chosen, by_block, by_task, existing, likeness, rows

GENERAL = "general"


@dataclass(frozen=True)
class DualPrompt(PromptOptions):
    """The options of DualPrompt. Of the blocks, those count that the backbone has."""

    general_length: int = 5
    """Pairs of key and value vectors of the general prompt of a block."""
    general_blocks: tuple[int, ...] = (0, 1)
    expert_length: int = 20
    """Pairs of key and value vectors of the expert prompt of a block."""
    expert_blocks: tuple[int, ...] = (2, 3, 4)
    matching: float = 1.0
    """The weight of the distance between an image's query and its task's key."""

    about: ClassVar[About] = About(
        name="dualprompt",
        title="DualPrompt",
        family="prompts",
        citation="Wang et al., ECCV 2022",
        travels="general prompts, the task's expert prompts and key, head, sample count",
        adapters=("prompt",),
        modalities=("image",),
    )

    def build(self, setting: Setting) -> Method:
        """`UserError` for options out of range."""
        for name in ("general_length", "expert_length"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("general_blocks", "expert_blocks"):
            require_blocks(name, getattr(self, name))
        both = set(self.general_blocks) & set(self.expert_blocks)
        require(not both, "expert_blocks", self.expert_blocks, f"{both} have the general prompt already")
        require(self.matching >= 0, "matching", self.matching, "must not be negative")
        train = prompting(setting, lambda round: (f"prompt/{GENERAL}", f"prompt/{round.task.index}"))
        return prompted(self.about.name, setting, replace(train, weights=_one_expert), _drawn)

    def shapes(self, width: int, depth: int) -> Mapping[str, tuple[int, ...]]:
        """The general prompt; the expert and the key of one task."""
        general = existing(self.general_blocks, depth, "general_blocks")
        expert = existing(self.expert_blocks, depth, "expert_blocks")
        return {
            GENERAL: (len(general), 2, self.general_length, width),
            "expert": (len(expert), 2, self.expert_length, width),
            "key": (width,),
        }

    def choose(self, values: Tensors, query: Tensor) -> Chosen:
        """The general prompts for all images, and for each the expert whose key is nearest."""
        near = likeness(query, torch.stack(by_task(values, "key"))).max(1)
        expert = rows(near.indices, torch.stack(by_task(values, "expert")))
        general = values[GENERAL].expand(len(query), -1, -1, -1, -1)
        prefixes = by_block(self.general_blocks, general) | by_block(self.expert_blocks, expert)
        return Chosen(self.matching * (1 - near.values).mean(), prefixes=prefixes)


def _drawn(fresh: Tensors, round: Round) -> Tensors:
    """The task's own expert and key; the general prompts come with the first task and stay."""
    own = {name: value for name, value in fresh.items() if name != GENERAL}
    general = {} if round.task.index else {f"prompt/{GENERAL}": fresh[GENERAL]}
    return general | prefix(own, f"prompt/{round.task.index}")


def _one_expert(shared: Tensors, round: Round) -> Tensors:
    """The model without the experts of earlier tasks."""
    earlier = tuple(f"prompt/{task}/" for task in range(round.task.index))
    return {key: value for key, value in model_values(shared).items() if not key.startswith(earlier)}
