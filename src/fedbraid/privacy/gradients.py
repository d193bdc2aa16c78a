"""DP-SGD: per-sample gradients, clipped and summed, with noise, on Poisson samples.

Abadi et al., Deep Learning with Differential Privacy, CCS 2016. A step on a sample B, in which every sample is with
probability q on its own, uses

    (sum_{s in B} g_s min(1, C / |g_s|) + N(0, (sigma C)^2)) / L

where g_s is the gradient of all tuned values together and L a fixed number such as the expected size of B: the true
size is private. Each step is a `Release(sigma, rate=q)`, an empty sample included, which is noise alone; any optimizer
may follow. A sample's loss must depend on that sample alone: no batch norm, no loss across a batch.

Differs from the paper: the noise's size comes from `accountant`, not from moments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.errors import UserError
from fedbraid.privacy.mechanisms import check_positive, clipped_sum, norms, release
from fedbraid.privacy.noise import NoiseSource

Sample = TypeVar("Sample")


@dataclass(frozen=True)
class ClippedGradient:
    """The sum of clipped gradients, fp64, and how many samples it was made of; all of it is private until noised.

    `clipped` counts gradients that were shortened, `left_out` those that were not finite and add nothing.
    """

    sums: Mapping[str, Tensor]
    samples: int
    clipped: int
    left_out: int


def poisson_sample(count: int, rate: float, source: NoiseSource) -> Tensor:
    """The numbers of the samples that are in: each of `count` with probability `rate`, on its own; perhaps none.

    They come from the secret source, since privacy by sampling is lost where the server knows who was in.
    """
    if not 0 < rate <= 1:
        raise UserError(f"rate = {rate}: a sampling rate is above 0 and at most 1")
    return (source.uniform(count) < rate).nonzero().squeeze(1)


def clipped_gradient(
    loss: Callable[[Sample], Tensor], parameters: Tensors, samples: Iterable[Sample], *, clip: float
) -> ClippedGradient:
    """The sum over samples of the gradient of `loss(sample)`, each clipped to a joint norm of `clip`.

    One sample passes through the model at a time: it works for every model that autograd can differentiate, in the
    memory of one sample.
    """
    check_positive("clip", clip)
    sums = {key: torch.zeros_like(value, dtype=torch.float64) for key, value in parameters.items()}
    done = clipped = left_out = 0
    for sample in samples:
        found = torch.autograd.grad(loss(sample), list(parameters.values()), materialize_grads=True)
        norm = torch.stack([part.double().square().sum() for part in found]).sum().sqrt().item()
        done += 1
        if not math.isfinite(norm):
            left_out += 1
            continue
        clipped += norm > clip
        for total, part in zip(sums.values(), found, strict=True):
            total.add_(part.double(), alpha=min(1.0, clip / norm) if norm else 1.0)
    return ClippedGradient(sums, done, clipped, left_out)


def clipped_gradient_at_once(
    loss: Callable[[Tensors, Tensors], Tensor], parameters: Tensors, batch: Tensors, *, clip: float, chunk: int = 16
) -> ClippedGradient:
    """The same for a pure function `loss(parameters, sample)`, `chunk` samples at a time by `torch.func.vmap`.

    Each tensor of `batch` has one row a sample; `chunk` gradients are held at once.
    """
    check_positive("clip", clip)
    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0), randomness="different")
    plain = {key: value.detach() for key, value in parameters.items()}
    sums = {key: torch.zeros_like(value, dtype=torch.float64) for key, value in plain.items()}
    samples = min((len(rows) for rows in batch.values()), default=0)
    clipped = left_out = 0
    for start in range(0, samples, chunk):
        found = per_sample(plain, {key: rows[start : start + chunk] for key, rows in batch.items()})
        lengths = norms(found)
        clipped += int((lengths.isfinite() & (lengths > clip)).sum())
        left_out += int((~lengths.isfinite()).sum())
        for key, part in clipped_sum(found, clip=clip).items():
            sums[key] += part
    return ClippedGradient(sums, samples, clipped, left_out)


def private_gradient(
    gradient: ClippedGradient, *, clip: float, sigma: float, expected: float, source: NoiseSource
) -> dict[str, Tensor]:
    """The noisy mean gradient, in fp64: the sum with noise over `expected`, a fixed number of samples."""
    check_positive("expected", expected)
    noisy = release(gradient.sums, clip=clip, sigma=sigma, source=source)
    return {key: value / expected for key, value in noisy.items()}
