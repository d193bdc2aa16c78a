"""Gradients of the frozen weights of the tuned layers, as sums over samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import Data, Model, Round
from fedbraid.errors import UserError
from fedbraid.local.objectives import Objective, Step
from fedbraid.local.seeding import seeded
from fedbraid.progress import track

Form = Callable[[str, Tensor], Tensors]
"""What travels of a layer's gradient, (d_out x d_in) in fp64: a linear function of it."""


def measure_gradients(
    model: Model,
    weights: Tensors,
    data: Data,
    round: Round,
    *,
    samples: int,
    batch_size: int,
    objectives: Sequence[Objective],
    form: Form,
) -> dict[str, Tensor]:
    """`form` of the gradient of the loss by every tuned layer's weight, summed over the client's samples.

    Where there are more than `samples`, whole batches of samples drawn without replacement, until there are as many;
    their sum is scaled up, so that a client counts by its size. `count` is that size. Dropout is off.
    Raises `UserError` where the backbone's weights have no gradient.
    """
    received = {key: value.to(model.device) for key, value in weights.items()}
    sums: dict[str, Tensor] = {}
    done = 0
    with seeded(round.derive("gradient", data.client), model.device):
        model.load(weights)
        model.train(False)
        parameters = model.parameters(("weight",))
        _check_all(model, parameters)
        draws = round.generator("gradient samples", data.client)
        batches = data.batches(min(batch_size, samples), device=model.device, shuffle=draws)
        for batch in track(batches, f"gradients of client {data.client}", -(-min(samples, len(data)) // batch_size)):
            features = model.features(batch.inputs)
            logits = model.logits(features.float())
            seen = Step(model, parameters, received, round, data, batch, features, logits)
            loss = torch.stack([objective(seen) for objective in objectives]).sum() * len(batch.labels)
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for (key, weight), gradient in zip(parameters.items(), found, strict=True):
                whole = torch.zeros_like(weight) if gradient is None else gradient
                for name, part in form(key.split("/", 1)[1], whole.double()).items():
                    sums[name] = sums[name] + part if name in sums else part
            done += len(batch.labels)
            if done >= samples:
                break
        model.parameters(())  # nothing is left that requires a gradient
    scaled = {name: value.cpu() * (len(data) / done) for name, value in sums.items()}
    return {"count": torch.tensor(float(len(data)), dtype=torch.float64), **scaled}


def _check_all(model: Model, parameters: Tensors) -> None:
    without = [layer for layer in model.layers if f"weight/{layer}" not in parameters]
    if without:
        raise UserError(
            f"the weight of {without[0]} has no gradient to start from: it is quantised or stored transposed; "
            "set method.init = 'weight'"
        )
