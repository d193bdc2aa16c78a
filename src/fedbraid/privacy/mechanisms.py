"""Sums of bounded contributions with normal noise, in particular diagonal Grams.

Dwork and Roth, The Algorithmic Foundations of Differential Privacy, 2014 (the Gaussian mechanism); Dwork et al.,
Analyze Gauss, STOC 2014 (noise on second moments). One sample's contribution v_s is the vector of all that it adds, of
all layers together; it is shortened to norm C, so a sum changes by at most C where a sample comes or goes:

    sum_s v_s min(1, C / |v_s|) + N(0, (sigma C)^2)

To a diagonal Gram a sample adds the squares of its tokens, summed over them, in every layer. Sums of squares cannot be
negative; noisy ones are raised to zero, which uses nothing of the data (post-processing) and costs no privacy.

Three conditions, without which the noise promises nothing:
- What a sample adds depends on this sample and on public values alone. A model counts as public if it came from the
  server or from training with noise (see `gradients`). Grams under a model that this client has trained without noise
  are not covered: every sample has shaped all activations.
- The clip, and any scale by which layers are divided before it (and multiplied after the release), are chosen without
  looking at this data. One layer with large inputs takes the whole clip from the others unless it is scaled.
- Sums are in fp64: rounding adds to the sensitivity less than 1e-4 of the clip up to a million samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.errors import UserError
from fedbraid.privacy.noise import NoiseSource

GRID_BITS = 20
"""Results are multiples of a power of two that is 2^-20 to 2^-21 of the noise's standard deviation (see `noise`)."""


def squares_by_sample(x: Tensor, owners: Tensor, samples: int) -> Tensor:
    """(samples, d) in fp64: what each sample adds to the diagonal Gram of the inputs x (tokens, d).

    `owners` (tokens) is the number of the sample, 0 to samples - 1, that a token belongs to.

    >>> squares_by_sample(torch.tensor([[1.0, 2.0], [3.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 0, 1]), 2).tolist()
    [[10.0, 4.0], [1.0, 1.0]]
    """
    sums = torch.zeros(samples, x.shape[1], dtype=torch.float64, device=x.device)
    return sums.index_add_(0, owners.to(x.device), x.double().square())


def norms(contributions: Tensors) -> Tensor:
    """(samples) the L2 norm of what each sample adds under all names together; they are private themselves."""
    lengths = {key: rows.shape[0] for key, rows in contributions.items()}
    if len(set(lengths.values())) != 1:
        raise UserError(f"contributions are one row a sample under every name; the numbers of rows are {lengths}")
    squares = [rows.double().flatten(1).square().sum(1) for rows in contributions.values()]
    return torch.stack(squares).sum(0).sqrt()


def clipped_sum(contributions: Tensors, *, clip: float) -> dict[str, Tensor]:
    """The sum over samples, in fp64, of contributions that are shortened to a joint norm of `clip` at most.

    Each tensor has one row a sample. A sample whose contribution is not finite adds nothing: an error about it would
    tell of the sample. Sums of several batches may be added.

    >>> sums = clipped_sum({"a": torch.tensor([[3.0], [0.75]]), "b": torch.tensor([[4.0], [0.0]])}, clip=1.0)
    >>> {key: [round(value, 9) for value in total.tolist()] for key, total in sums.items()}
    {'a': [1.35], 'b': [0.8]}
    """
    check_positive("clip", clip)
    lengths = norms(contributions)
    finite = lengths.isfinite()
    factors = torch.where(finite, clip / lengths.clamp_min(clip), 0.0)
    sums: dict[str, Tensor] = {}
    for key, rows in contributions.items():
        kept = torch.where(finite[:, None], rows.double().flatten(1), 0.0)
        sums[key] = (factors @ kept).reshape(rows.shape[1:])
    return sums


def release(sums: Tensors, *, clip: float, sigma: float, source: NoiseSource) -> dict[str, Tensor]:
    """The sums with noise of standard deviation `sigma * clip` on every number: one release of this noise multiplier.

    All names together are one vector, to which no sample may have added more than `clip`.
    """
    check_positive("clip", clip)
    check_positive("sigma", sigma)
    scale = sigma * clip
    grid = 2.0 ** (math.frexp(scale)[1] - 1 - GRID_BITS)
    released: dict[str, Tensor] = {}
    for key in sorted(sums):
        exact = sums[key].double()
        if not exact.isfinite().all():
            raise UserError(f"the sum {key!r} is not finite, so noise hides nothing in it; take it by clipped_sum")
        noisy = exact + scale * source.normal(exact.shape).to(exact.device)
        released[key] = (noisy / grid).round() * grid
    return released


def release_diagonals(sums: Tensors, *, clip: float, sigma: float, source: NoiseSource) -> dict[str, Tensor]:
    """`release` of diagonal Grams of any number of layers: one release, then nothing is below zero."""
    released = release(sums, clip=clip, sigma=sigma, source=source)
    return {key: value.clamp_min(0) for key, value in released.items()}


def check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{name} = {value}: a private release needs a number above 0")
