"""CCVR: calibrate the head on features drawn from class Gaussians.

Luo et al., No Fear of Heterogeneity: Classifier Calibration for Federated Learning with Non-IID Data, NeurIPS 2021.

At the end of a task every client sends, for each of its classes, n_c, sum f and sum f f^T of its features; the server
forms one Gaussian a class (see `merges.gaussians`), draws features from the Gaussians of all classes seen, and retrains
the head on them by cross-entropy on normalised logits z / (tau |z|).
Travels up: as FedAvg; at the end of a task d^2 / 2 numbers a class.
Differs from the paper: logits are normalised, over all classes together (a recipe of later work on pre-trained models,
as in LoRM's table); classes of earlier tasks keep the Gaussian of their own task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fedbraid.algebra import Statistic, Tensors, prefix, select
from fedbraid.core import Data, Method, Model, Round, State
from fedbraid.linalg import from_triangle, to_triangle
from fedbraid.local.moments import class_moments
from fedbraid.merges.gaussians import draw, gaussian
from fedbraid.methods.base import About, Options, Setting, model_values, require
from fedbraid.methods.fedavg import averaging, carried
from fedbraid.models.heads import join, logits
from fedbraid.phases import Measure, Measured
from fedbraid.quantities import CLASS_GRAM, CLASS_MOMENTS


@dataclass(frozen=True)
class CCVR(Options):
    """The options of CCVR. How the head is retrained is not stated in LoRM's table; the values are ours."""

    samples: int = 256
    """Features drawn for every class."""
    epochs: int = 5
    lr: float = 0.01
    temperature: float = 0.1
    """Tau of the normalised logits."""

    about: ClassVar[About] = About(
        name="ccvr",
        title="CCVR",
        family="head calibration",
        citation="Luo et al., NeurIPS 2021",
        travels="tuned values, sample count; at task end moments of every class's features",
        adapters=("full", "lora", "none"),
    )

    def build(self, setting: Setting) -> Method:
        """`UserError` for options out of range."""
        for name in ("samples", "epochs"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("lr", "temperature"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        calibrate = Measure(
            Measured(_moments, {**CLASS_MOMENTS, "second": CLASS_GRAM}), self._calibrate, cohort=setting.cohort
        )
        return carried(self.about.name, setting, {"train": averaging(setting), "calibrate": calibrate})

    def _calibrate(self, model: Model, state: State, total: Statistic, round: Round) -> State:
        server = {**state.server, **_gaussians(total, round.task.index)}
        heads = {int(task): head for task, head in select(state.shared, "head").items()}
        draws = round.generator("calibration")
        labels, features = _drawn(server, round, self.samples, draws)
        head = self._retrained(join(heads).to(model.device), features.to(model.device), labels.to(model.device), draws)
        sizes = [len(heads[task]) for task in sorted(heads)]
        rows = dict(enumerate(torch.split(head.cpu(), sizes)))
        return State({**state.shared, **{f"head/{task}": rows[task].clone() for task in rows}}, server)

    def _retrained(self, head: Tensor, features: Tensor, labels: Tensor, draws: torch.Generator) -> Tensor:
        """The head after `epochs` passes over the drawn features."""
        head = head.clone().requires_grad_()
        optimizer = torch.optim.SGD([head], lr=self.lr, momentum=0.9)
        with torch.enable_grad():
            for _ in range(self.epochs):
                for rows in torch.randperm(len(labels), generator=draws).to(labels.device).split(256):
                    z = logits(features[rows], head)
                    loss = F.cross_entropy(z / (self.temperature * z.norm(dim=1, keepdim=True) + 1e-7), labels[rows])
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
        return head.detach()


def _moments(model: Model, shared: Tensors, data: Data, round: Round) -> Tensors:
    return class_moments(model, model_values(shared), data, round, second=True)


def _gaussians(total: Statistic, task: int) -> dict[str, Tensor]:
    """The Gaussians of the task's classes that have samples, by class: what the server keeps."""
    found: dict[str, Tensor] = {}
    for c, count in enumerate(total["count"]):
        if count > 0:
            mean, covariance = gaussian(count, total["first"][c], total["second"][c])
            found |= prefix({"mean": mean, "covariance": to_triangle(covariance).float()}, f"gaussian/{task}/{c}")
    return found


def _drawn(server: Tensors, round: Round, samples: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """(labels, features) drawn from all Gaussians, in the order of the classes."""
    labels: list[Tensor] = []
    features: list[Tensor] = []
    for task in range(round.task.index + 1):
        offset, end = round.task.offsets[task : task + 2]
        for c in range(end - offset):
            known = select(server, f"gaussian/{task}/{c}")
            if known:
                covariance = from_triangle(known["covariance"].double())
                features.append(draw(known["mean"], covariance, samples, draws).float())
                labels.append(torch.full((samples,), offset + c))
    return torch.cat(labels), torch.cat(features)
