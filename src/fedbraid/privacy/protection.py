"""How a client's work is made private: numbers that anybody may know, and what a round of it costs.

Nothing here may depend on the samples, not even on how many there are. So the sampling rate, the number of steps, the
size that sums are divided by and the weight of a client follow from `samples`, a number that is declared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from fedbraid.core import Data
from fedbraid.privacy.ledger import Release
from fedbraid.privacy.noise import SECRET_BYTES, fresh_secret

KEY = "private/key"
"""Under which a client finds the key of its noise in its memory. It is never sent."""


@dataclass(frozen=True)
class Protection:
    """`sigma` is the noise multiplier of a step, `sigma_grams` that of diagonal Grams; a clip bounds one sample."""

    samples: int
    batch_size: int
    epochs: int
    sigma: float
    clip: float = 1.0
    sigma_grams: float = 1.0
    clip_grams: float = 1.0

    @property
    def rate(self) -> float:
        """The probability of a sample to be in a step."""
        return min(1.0, self.batch_size / self.samples)

    @property
    def steps(self) -> int:
        """The steps of a round."""
        return self.epochs * math.ceil(self.samples / self.batch_size)

    @property
    def expected(self) -> float:
        """What the sum of a step is divided by."""
        return self.rate * self.samples

    @property
    def training(self) -> Release:
        """What a round of training costs."""
        return Release(self.sigma, self.steps, self.rate)

    @property
    def grams(self) -> Release:
        """What the diagonal Grams of a round cost."""
        return Release(self.sigma_grams)

    def words(self) -> str:
        """The mechanism in words."""
        return (
            f"DP-SGD, {self.steps} steps a round at rate {self.rate:.4g}, noise multiplier {self.sigma:.4g}, clip "
            f"{self.clip:g}"
        )


def key_of(data: Data) -> bytes:
    """The key of these samples' noise; one that nobody knows where there is none, as in a rehearsal."""
    held = data.memory.get(KEY)
    return fresh_secret() if held is None else bytes(held.tolist())


def as_tensor(key: bytes) -> torch.Tensor:
    """A key as a client's memory holds it."""
    assert len(key) == SECRET_BYTES
    return torch.tensor(list(key), dtype=torch.uint8)
