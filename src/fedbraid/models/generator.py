"""A generator of images: noise and a class in, an image of any side out.

It normalises in groups of channels, so an image does not depend on its batch. Pixels are repeated to double the side,
and what is too much is cut off: gradients of a smooth resize differ from call to call on a GPU.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

FIRST = 8
"""The side that doubling starts from is at most this."""
WIDEST, NARROWEST = 128, 16
"""Channels at the first side, halved with every doubling, and the fewest: most pixels are where channels are few."""
GROUPS = 8


class Generator(nn.Module):
    """Images (n, channels, size, size) with values in 0 .. 1 from noise (n, `noise`) and classes (n,)."""

    def __init__(self, classes: int, *, size: int, channels: int, noise: int = 64) -> None:
        super().__init__()
        doublings = 0
        while size > FIRST * 2**doublings:
            doublings += 1
        self.size, self.noise = size, noise
        self._side = -(-size // 2**doublings)
        self._classes = nn.Embedding(classes, noise)
        self._first = nn.Linear(2 * noise, WIDEST * self._side**2)
        widths = [max(WIDEST // 2**step, NARROWEST) for step in range(doublings + 1)]
        blocks = [_doubling(wide, narrow) for wide, narrow in pairwise(widths)]
        last = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self._layers = nn.Sequential(nn.GroupNorm(GROUPS, WIDEST), *blocks, last, nn.Sigmoid())

    def forward(self, noise: Tensor, classes: Tensor) -> Tensor:
        wanted = torch.cat([noise, self._classes(classes)], dim=1)
        first = self._first(wanted).view(-1, WIDEST, self._side, self._side)
        return self._layers(first)[..., : self.size, : self.size]


def _doubling(wide: int, narrow: int) -> nn.Module:
    return nn.Sequential(
        nn.Upsample(scale_factor=2),
        nn.Conv2d(wide, narrow, 3, padding=1, bias=False),
        nn.GroupNorm(GROUPS, narrow),
        nn.LeakyReLU(0.2),
    )
