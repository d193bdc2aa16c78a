"""What a client computes under privacy: gradients and diagonal Grams with noise, one sample at a time.

A sample's part must depend on that sample alone, so there is no dropout, no statistic of a batch and no augmentation
here, and nothing is told of the loss. The noise comes from a key that the client never sends (see `privacy.account`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import Batch, Data, Model, Round
from fedbraid.privacy.gradients import clipped_gradient, poisson_sample, private_gradient
from fedbraid.privacy.mechanisms import clipped_sum, release_diagonals
from fedbraid.privacy.noise import noise_generator
from fedbraid.privacy.protection import Protection, key_of
from fedbraid.progress import track


def noisy_gradients(
    model: Model,
    parameters: Mapping[str, torch.nn.Parameter],
    data: Data,
    round: Round,
    *,
    received: Tensors,
    protection: Protection,
    loss: Callable[[Batch], Tensor],
) -> Iterator[tuple[Tensor, int]]:
    """Sets the gradients of one step of a round after another: noisy means of clipped ones (DP-SGD).

    Loss and samples of a step are private, so zeros are told of them.
    """
    nothing = torch.zeros((), device=model.device)
    source = noise_generator(key_of(data), round, data.client, purpose="steps", received=received)
    model.train(False)
    for _ in track(range(protection.steps), f"client {data.client}", protection.steps):
        drawn = poisson_sample(len(data), protection.rate, source).tolist()
        samples = (_sample(data, place, model.device) for place in drawn)
        gradient = clipped_gradient(loss, parameters, samples, clip=protection.clip)
        noisy = private_gradient(
            gradient, clip=protection.clip, sigma=protection.sigma, expected=protection.expected, source=source
        )
        for key, parameter in parameters.items():
            parameter.grad = noisy[key].to(parameter)
        yield nothing, 0


def noisy_diagonals(
    data: Data,
    round: Round,
    *,
    received: Tensors,
    protection: Protection,
    device: torch.device,
    squares: Callable[[Batch], Tensors],
    widths: Mapping[str, int],
) -> dict[str, Tensor]:
    """The diagonal Grams of all layers, one release; `squares` gives what one sample adds to each."""
    source = noise_generator(key_of(data), round, data.client, purpose="grams", received=received)
    sums = {key: torch.zeros(width, dtype=torch.float64, device=device) for key, width in widths.items()}
    for place in track(range(len(data)), f"Grams of client {data.client}", len(data)):
        parts = {key: part[None] for key, part in squares(_sample(data, place, device)).items()}
        for key, part in clipped_sum(parts, clip=protection.clip_grams).items():
            sums[key] += part
    return release_diagonals(sums, clip=protection.clip_grams, sigma=protection.sigma_grams, source=source)


def _sample(data: Data, place: int, device: torch.device) -> Batch:
    return data.recall(data.ids[place : place + 1], device=device)
