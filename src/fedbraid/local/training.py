"""Local training: what a client computes in a training round.

The optimizer is rebuilt in every round and knows one learning rate a kind of tuned value, as the public commands of the
field do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import Data, Model, Round
from fedbraid.errors import RunError
from fedbraid.local.objectives import Objective, Step
from fedbraid.local.seeding import seeded
from fedbraid.progress import track


@dataclass(frozen=True)
class Training:
    """How clients train. `rates` overrides `lr` by kind of tuned value: base, lora_A, lora_B, head."""

    epochs: int = 5
    batch_size: int = 16
    lr: float = 3e-3
    rates: Mapping[str, float] = field(default_factory=dict[str, float])
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    weight_decay: float = 0.0
    momentum: float = 0.0
    augment: bool = True

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

    `teacher` holds the weights of a model whose logits on every batch the objectives see.
    Raises `RunError` naming client, round and step where the loss, or a value after the last step, is not finite.
    """
    received = {key: value.to(model.device) for key, value in shared.items()}
    answers = [] if teacher is None else _answers(model, teacher, data, round, training)
    with seeded(round.derive("train", data.client), model.device):
        model.load(weights)
        parameters = model.parameters(kinds)
        optimizer = _optimizer(parameters, training)
        model.train()
        loss_sum = torch.zeros((), dtype=torch.float64, device=model.device)
        samples = 0
        steps = training.epochs * math.ceil(len(data) / training.batch_size)
        for step, batch in enumerate(track(_epochs(model, data, round, training), f"client {data.client}", steps)):
            features = model.features(batch.inputs)
            logits = model.logits(features.float())
            taught = answers[step] if answers else None
            seen = Step(model, parameters, received, round, data, batch, features, logits, taught)
            loss = torch.stack([objective(seen) for objective in objectives]).sum()
            if not torch.isfinite(loss):
                raise _diverged("the loss", loss.item(), data, round, step, training)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(batch.labels)
            samples += len(batch.labels)
    metrics = {
        "metric/loss": loss_sum.cpu(),
        "metric/samples": torch.tensor(float(samples), dtype=torch.float64),
    }
    values = model.values(kinds)
    for key, value in values.items():
        if not torch.isfinite(value).all():
            raise _diverged(key, math.nan, data, round, step, training)
    return values | metrics


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
