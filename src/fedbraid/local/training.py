"""Local training: what a client computes in a training round.

The optimizer is rebuilt in every round and knows one learning rate a kind of tuned value, as the public commands of the
field do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import Batch, Data, Model, Round
from fedbraid.errors import RunError
from fedbraid.local.objectives import Objective, Step
from fedbraid.local.private import noisy_gradients
from fedbraid.local.seeding import seeded
from fedbraid.privacy.protection import Protection
from fedbraid.progress import track


@dataclass(frozen=True)
class Training:
    """How clients train. `rates` overrides `lr` by kind of tuned value: base, lora_A, lora_B, head.

    With a `protection` gradients carry noise; epochs and batches are then what it says.
    """

    epochs: int = 5
    batch_size: int = 16
    lr: float = 3e-3
    rates: Mapping[str, float] = field(default_factory=dict[str, float])
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    weight_decay: float = 0.0
    momentum: float = 0.0
    augment: bool = True
    protection: Protection | None = None

    def rate(self, key: str) -> float:
        return self.rates.get(key.split("/", 1)[0], self.lr)


def train(
    model: Model,
    weights: Tensors,
    kinds: Sequence[str],
    data: Data,
    round: Round,
    *,
    shared: Tensors,
    training: Training,
    objectives: Sequence[Objective],
    teacher: Tensors | None = None,
) -> dict[str, Tensor]:
    """The tuned values of `kinds` after training from `weights`, with `metric/loss` (a sum) and `metric/samples`.

    Private training tells no metrics. `teacher` holds the weights of a model whose logits on every batch the
    objectives see.
    Raises `RunError` naming client, round and step where the loss, or a value after the last step, is not finite.
    """
    received = {key: value.to(model.device) for key, value in shared.items()}
    answers = [] if teacher is None else _answers(model, teacher, data, round, training)
    with seeded(round.derive("train", data.client), model.device):
        model.load(weights)
        parameters = model.parameters(kinds)
        optimizer = _optimizer(parameters, training)

        def loss(batch: Batch, taught: Tensor | None = None) -> Tensor:
            features = model.features(batch.inputs)
            logits = model.logits(features.float())
            seen = Step(model, parameters, received, round, data, batch, features, logits, taught)
            return torch.stack([objective(seen) for objective in objectives]).sum()

        protection = training.protection
        if protection:
            steps = noisy_gradients(model, parameters, data, round, received=shared, protection=protection, loss=loss)
        else:
            steps = _gradients(model, parameters, data, round, training, loss, answers)
        loss_sum, samples = torch.zeros((), dtype=torch.float64, device=model.device), 0
        step = 0
        for step, (told, count) in enumerate(steps):  # noqa: B007 (an error names the last one)
            optimizer.step()
            loss_sum += told * count
            samples += count
    metrics = {"metric/loss": loss_sum.cpu(), "metric/samples": torch.tensor(float(samples), dtype=torch.float64)}
    values = model.values(kinds)
    for key, value in values.items():
        if not torch.isfinite(value).all():
            raise _diverged(key, math.nan, data, round, step, training)
    return values if protection else values | metrics


def _gradients(
    model: Model,
    parameters: Mapping[str, torch.nn.Parameter],
    data: Data,
    round: Round,
    training: Training,
    loss: Callable[[Batch, Tensor | None], Tensor],
    answers: Sequence[Tensor],
) -> Iterator[tuple[Tensor, int]]:
    """(loss, samples) of one batch after another, whose gradients are set."""
    model.train()
    steps = training.epochs * math.ceil(len(data) / training.batch_size)
    for step, batch in enumerate(track(_epochs(model, data, round, training), f"client {data.client}", steps)):
        found = loss(batch, answers[step] if answers else None)
        if not torch.isfinite(found):
            raise _diverged("the loss", found.item(), data, round, step, training)
        for parameter in parameters.values():
            parameter.grad = None
        found.backward()
        yield found.detach(), len(batch.labels)


def _answers(model: Model, teacher: Tensors, data: Data, round: Round, training: Training) -> list[Tensor]:
    """The teacher's logits on every batch of the coming training.

    They are taken before it on the very batches that it will see, since order and augmentation are a function of the
    round: so one model in memory is enough.
    """
    model.load(teacher)
    model.train(False)
    with torch.no_grad():
        return [model.logits(model.features(batch.inputs).float()) for batch in _epochs(model, data, round, training)]


def _epochs(model: Model, data: Data, round: Round, training: Training):
    shuffle = round.generator("shuffle", data.client)
    for _ in range(training.epochs):
        yield from data.batches(training.batch_size, device=model.device, shuffle=shuffle, augment=training.augment)


def _optimizer(parameters: Mapping[str, torch.nn.Parameter], training: Training) -> torch.optim.Optimizer:
    """One group a kind of tuned value."""
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for key, parameter in parameters.items():
        groups.setdefault(training.rate(key), []).append(parameter)
    options = [{"params": members, "lr": rate} for rate, members in groups.items()]
    if training.optimizer == "sgd":
        return torch.optim.SGD(options, momentum=training.momentum, weight_decay=training.weight_decay)
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind(options, weight_decay=training.weight_decay, fused=True)


def _diverged(what: str, value: float, data: Data, round: Round, step: int, training: Training) -> RunError:
    rates = ", ".join(f"{kind} {rate:g}" for kind, rate in {"lr": training.lr, **training.rates}.items())
    return RunError(
        f"{what} of client {data.client} became {value} in {round}, step {step}; the last finished round is "
        f"saved. Lower the learning rate ({rates}), or check this client's data"
    )
