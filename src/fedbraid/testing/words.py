"""The few words of the tiny worlds, and sentences of them."""

from __future__ import annotations

import torch

TELLING = ("cat", "dog", "mat", "tree", "big", "small", "red", "home", "sat", "ran", "on", "under")
"""Two words a class, by which a sentence can be told."""
WORDS = (*TELLING, "the", "a", "and", "then", "fast")


def sentence(label: int, draws: torch.Generator) -> str:
    """A sentence of this class: its two words at both ends, others between them."""
    length = int(torch.randint(2, 9, (1,), generator=draws))
    others = [WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=draws).tolist()]
    return " ".join([TELLING[2 * label], *others, TELLING[2 * label + 1]])
