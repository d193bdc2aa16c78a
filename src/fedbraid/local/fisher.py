"""The diagonal Fisher information of what is tuned, as a sum over samples of squared gradients.

    F = sum_x (d log p(y | x) / d w)^2

over the classes of the current task, one sample at a time: the square of a batch's gradient is something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fedbraid.algebra import Tensors
from fedbraid.core import Batch, Data, Model, Round
from fedbraid.local.seeding import seeded
from fedbraid.progress import track


def measure_fisher(
    model: Model,
    weights: Tensors,
    kinds: Sequence[str],
    data: Data,
    round: Round,
    *,
    samples: int,
    labels: Literal["data", "model"],
) -> dict[str, Tensor]:
    """`fisher/<key>` in fp64 for every value of `kinds`: the sum over all the client's samples.

    Where there are more than `samples`, the sum over so many of them, drawn without replacement and scaled up: so a
    client counts by its size. The label y of a sample is its own (`data`, the empirical Fisher), or one drawn from the
    model's answer (`model`).
    """
    draws = round.generator("fisher", data.client)
    count = min(samples, len(data))
    batches = islice(data.batches(1, device=model.device, shuffle=draws), count)
    with seeded(round.derive("fisher labels", data.client), model.device):
        model.load(weights)
        parameters = model.parameters(kinds)
        model.train(False)
        sums = {key: torch.zeros_like(p, dtype=torch.float64) for key, p in parameters.items()}
        for batch in track(batches, f"Fisher of client {data.client}", count):
            loss = -_log_likelihood(model, batch, round, labels)
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for key, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    sums[key] += gradient.double().square()
    return {f"fisher/{key}": value.cpu() * (len(data) / max(count, 1)) for key, value in sums.items()}


def _log_likelihood(model: Model, batch: Batch, round: Round, labels: Literal["data", "model"]) -> Tensor:
    classes = round.task.classes
    logits = model.logits(model.features(batch.inputs).float())[:, classes.start : classes.stop]
    if labels == "data":
        return -F.cross_entropy(logits, batch.labels - classes.start)
    drawn = torch.multinomial(logits.detach().softmax(1), 1)[:, 0]
    return -F.cross_entropy(logits, drawn)
