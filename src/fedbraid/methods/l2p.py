"""L2P: every image picks a few prompts from one pool, and the head reads what becomes of them.

Wang et al., Learning to Prompt for Continual Learning, CVPR 2022.

    q = class token of x under the plain backbone;  N = the `top` keys of largest cos(q, k_i)
    f(x) = mean over the output tokens of the prompts P_i, i in N, that join the sequence
    local loss + matching sum_{i in N} (1 - cos(q, k_i)),      then the mean of FedAvg

Travels up: the pool, its keys, the task's head and the sample count.
Differs from public code: every image has its own choice, where public codes let the batch vote, also at test time, so
that an answer depends on the other images; prompts stand at the end of the sequence without positions; first values
are normal of unit length (uniform, of several scales, there). One federated port trains without the matching term, so
that keys stay as they were drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import Method
from fedbraid.methods.base import About, Setting, require
from fedbraid.methods.fedavg import carried
from fedbraid.methods.prompting import PromptOptions, prompting
from fedbraid.models.prompts import Chosen, likeness, rows


@dataclass(frozen=True)
class L2P(PromptOptions):
    """The options of L2P."""

    pool: int = 10
    """Prompts in the pool, each with a key."""
    length: int = 5
    """Tokens of a prompt."""
    top: int = 5
    """Prompts that an image picks."""
    matching: float = 0.5
    """The weight of the distance between an image's query and the keys it picks."""

    about: ClassVar[About] = About(
        name="l2p",
        title="L2P",
        family="prompts",
        citation="Wang et al., CVPR 2022",
        travels="prompt pool, keys, head, sample count",
        adapters=("prompt",),
        modalities=("image",),
    )

    def build(self, setting: Setting) -> Method:
        """One pool for all tasks; `UserError` for options out of range."""
        require(self.length >= 1, "length", self.length, "must be at least 1")
        require(1 <= self.top <= self.pool, "top", self.top, f"must lie between 1 and method.pool = {self.pool}")
        require(self.matching >= 0, "matching", self.matching, "must not be negative")
        return carried(self.about.name, setting, {"train": prompting(setting, lambda _round: ("prompt",))})

    def shapes(self, width: int, depth: int) -> Mapping[str, tuple[int, ...]]:  # noqa: ARG002
        """The pool of prompts, and their keys."""
        return {"pool": (self.pool, self.length, width), "key": (self.pool, width)}

    def choose(self, values: Tensors, query: Tensor) -> Chosen:
        """The tokens of the prompts whose keys are nearest."""
        near = likeness(query, values["key"]).topk(self.top, dim=1)
        tokens = rows(near.indices, values["pool"]).flatten(1, 2)
        return Chosen(self.matching * (1 - near.values).sum(1).mean(), tokens=tokens)
