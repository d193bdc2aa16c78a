"""Random numbers of a client's work, from a seed of its own.

Dropout and augmentation draw from torch's global generators. Inside `seeded` these start from the given seed, and
outside nothing of it is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The global generators start from `seed` inside and continue as before outside."""
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield
