"""Short stand-ins for long tensors, which keep angles: what a server remembers of every update of a round.

Every number gets a random sign and is added to one of `WIDTH` places in turn (Charikar, Chen and Farach-Colton, Finding
Frequent Items in Data Streams, 2002, with places dealt out instead of drawn). Inner products come out right on average,
with a standard error of about |x| |y| (2 / WIDTH)^0.5. `WIDTH` is prime, so that the columns of a matrix do not fall on
the same places row after row. Sketches of several tensors add up to the sketch of them all.

Signs are functions of (seed, task, phase, round, name), so a resumed server sees what the first one saw.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedbraid.core import Round

WIDTH = 509


def signs(shape: Sequence[int], round: Round, name: str) -> Tensor:
    """The signs of a tensor of that name, as fp64 ones."""
    generator = round.generator(f"sketch of {name}")
    drawn = torch.randint(0, 2, tuple(shape), generator=generator, dtype=torch.int8)
    return drawn.double().mul_(2).sub_(1)


def sketch(tensor: Tensor, signs: Tensor) -> Tensor:
    """(`WIDTH`,) in fp64; a smaller tensor than that of the signs is the corner of one of their shape."""
    if tensor.shape != signs.shape:
        whole = torch.zeros_like(signs)
        whole[corner(tensor)] = tensor.double()
        tensor = whole
    signed = (tensor.double() * signs).flatten()
    padded = torch.nn.functional.pad(signed, (0, -len(signed) % WIDTH))
    return padded.view(-1, WIDTH).sum(0)


def corner(tensor: Tensor) -> tuple[slice, ...]:
    """Where a smaller tensor lies in a larger one, as that of a client with an adapter of smaller rank."""
    return tuple(slice(size) for size in tensor.shape)
