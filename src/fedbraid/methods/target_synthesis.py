"""Images without data: a generator is trained against the global model, then asked for images.

    loss(x) = CE(z(x), y) - adversarial [argmax z = argmax s] KL(z(x) || s(x))
              - diversity |u(x) - u(x')| + variation TV(x) + magnitude |x|^2

x is the generator's image of a wanted class y of the finished task, x' another of the same class; z and u are the
global model's logits and features, these of length 1, of an image moved by a few pixels. s is the student: a second
head on the same features that learns z from the images made so far. Where it agrees on the class but not on the answer,
the images have yet to show something of what the head reads. A student with a backbone of its own, learning from
nothing but these images, would differ everywhere and ask for noise. The last three terms stand where networks with
batch normalisation compare statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fedbraid.core import ImageInput, Model, Round
from fedbraid.errors import RunError
from fedbraid.local.objectives import softened_kl
from fedbraid.local.seeding import seeded
from fedbraid.models.generator import Generator
from fedbraid.models.heads import fresh_head, logits
from fedbraid.progress import track

STUDENT_RATE = 0.1
"""Of the student's learning, divided by the number of features: about so much does a logit move in a step."""
BETAS = (0.5, 0.999)
"""Of Adam, as is usual for generators."""
DRAWN = 64
"""Images that pass through a model at once where no gradient is taken."""


@dataclass(frozen=True)
class Synthesis:
    """How the generator is trained: its length, and the weights of its terms."""

    steps: int
    batch: int
    lr: float
    adversarial: float
    diversity: float
    variation: float
    magnitude: float


def synthesise(model: Model, spec: ImageInput, classes: range, round: Round, *, images: int, plan: Synthesis) -> Tensor:
    """`images` images of each class in uint8, (n, channels, size, size), class by class, for the model as it is loaded.

    `classes` are the last of those that the model knows. `RunError` where the loss is not finite.
    """
    with seeded(round.derive("synthesis"), model.device), torch.enable_grad():
        generator = Generator(len(classes), size=spec.size, channels=spec.channels).to(model.device)
        _fit(generator, model, spec, classes, round, plan)
        with torch.no_grad():
            wanted = torch.arange(len(classes)).repeat_interleave(images)
            parts = [_generated(generator, some, model.device).cpu() for some in wanted.split(DRAWN)]
    made = _finite(torch.cat(parts), "a value of the generator's images", round, plan)
    return (made * 255).round().to(torch.uint8)


def answers(model: Model, images: Tensor, spec: ImageInput) -> Tensor:
    """(n, classes of all loaded heads): the logits of uint8 images, on the CPU."""
    with torch.no_grad():
        parts = [inputs(part.to(model.device) / 255, spec) for part in images.split(DRAWN)]
        return torch.cat([model.logits(model.features(part).float()).cpu() for part in parts])


def inputs(images: Tensor, spec: ImageInput) -> Mapping[str, Tensor]:
    """What the backbone reads of images with values in 0 .. 1."""
    mean, std = (images.new_tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    return {spec.name: (images - mean) / std}


def _fit(generator: Generator, model: Model, spec: ImageInput, classes: range, round: Round, plan: Synthesis) -> None:
    student = fresh_head(classes.stop, model.width, round.generator("student")).to(model.device).requires_grad_()
    optimizer = torch.optim.Adam(generator.parameters(), lr=plan.lr, betas=BETAS)
    learner = torch.optim.Adam([student], lr=STUDENT_RATE / model.width)
    for step in track(range(plan.steps), f"generator, {round}"):
        wanted = torch.randint(len(classes), (plan.batch // 2,)).repeat(2)
        images = _generated(generator, wanted, model.device)
        features = model.features(inputs(_moved(images), spec)).float()
        z = model.logits(features)
        loss = (
            F.cross_entropy(z, wanted.to(z.device) + classes.start)
            - plan.adversarial * _disagreement(z, logits(features, student))
            - plan.diversity * _spread(features)
            + plan.variation * _variation(images)
            + plan.magnitude * inputs(images, spec)[spec.name].square().mean()
        )
        optimizer.zero_grad(set_to_none=True)
        _finite(loss, f"the loss of the generator's step {step}", round, plan).backward()
        optimizer.step()
        learner.zero_grad(set_to_none=True)
        softened_kl(z.detach(), logits(features.detach(), student), 1.0).backward()
        learner.step()


def _finite(value: Tensor, what: str, round: Round, plan: Synthesis) -> Tensor:
    """The value itself; `RunError` where a number of it is not finite."""
    wrong = value[~torch.isfinite(value)]
    if len(wrong):
        raise RunError(
            f"{what} became {wrong[0].item()} in {round}; the last finished round is saved. Lower the generator's "
            f"learning rate, method.lr = {plan.lr:g}, or the weights of its terms"
        )
    return value


def _generated(generator: Generator, classes: Tensor, device: torch.device) -> Tensor:
    """Images of these classes; noise is drawn on the CPU, so that it is the same on every device."""
    noise = torch.randn(len(classes), generator.noise)
    return generator(noise.to(device), classes.to(device))


def _moved(images: Tensor) -> Tensor:
    """The images shifted by up to an eighth of their side, around the edge: what is learned must survive it."""
    reach = images.shape[-1] // 8
    down, right = torch.randint(-reach, reach + 1, (2,)).tolist()
    return images.roll((down, right), (-2, -1))


def _disagreement(z: Tensor, student: Tensor) -> Tensor:
    """KL of the answers, the mean over rows, where both name one class; elsewhere zero, since it has no upper bound."""
    agree = z.argmax(1) == student.argmax(1)
    divergence = F.kl_div(student.log_softmax(1), z.log_softmax(1), log_target=True, reduction="none").sum(1)
    return (divergence * agree).mean()


def _spread(features: Tensor) -> Tensor:
    """The mean distance of two images of one class, rows i and i + n / 2, between features of length 1.

    Where two images are nearly one, a distance still pulls them apart; a cosine no longer does.
    """
    one, other = F.normalize(features, dim=1).chunk(2)
    return F.pairwise_distance(one, other).mean()


def _variation(images: Tensor) -> Tensor:
    """Total variation on a square of side 1, the mean over images: the same for a picture at any resolution."""
    return images.shape[-1] * (images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean())
