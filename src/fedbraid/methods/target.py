"""TARGET: old classes are rehearsed on synthetic images that the server makes from the global model alone.

Zhang et al., TARGET: Federated Class-Continual Learning via Exemplar-Free Distillation, ICCV 2023.

    local loss + weight T^2 KL(softmax(z_old / T) || softmax(z / T))        on synthetic images, over the old classes

Between two tasks the server trains a generator against the global model (see `methods.target_synthesis`), keeps
`images` of its images for each class of the finished task, and has the global model answer all images so far: z_old.
Travels up: the tuned values and the sample count. Travels down: a task's images once, size^2 x channels bytes each;
with every task z_old, 4 bytes an image and class.
Differs from public code: images are of the backbone's size and add up over the tasks, where there one set of all
classes seen replaces the last; image priors and a diversity term stand for batch-norm statistics; z_old travels, so
that no client runs the old model; the student is a head on the global model's features. As there, the old heads, whose
rows follow the features, are trained with the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fedbraid.algebra import prefix, select
from fedbraid.core import ImageInput, Method, Model, Round, State
from fedbraid.errors import UserError
from fedbraid.local.objectives import Step, softened_kl
from fedbraid.methods.base import About, Options, Setting, grow, model_values, require, tuned
from fedbraid.methods.fedavg import averaging, carried
from fedbraid.methods.target_synthesis import Synthesis, answers, inputs, synthesise
from fedbraid.phases import serve

IMAGES = "synthetic/images"
LOGITS = "synthetic/logits"


@dataclass(frozen=True)
class TARGET(Options):
    """The options of TARGET.

    `temperature`, `lr` and `adversarial` are those of the public code; what is chosen there for small ResNets is ours.
    """

    weight: float = 1.0
    """Of the distillation."""
    temperature: float = 2.0
    batch: int = 16
    """Synthetic images in every training step."""
    images: int = 20
    """Synthetic images kept for every class."""
    steps: int = 200
    """Training steps of the generator in every task."""
    generator_batch: int = 32
    """Images in each of them, an even number: two of every class drawn."""
    lr: float = 2e-3
    """Of the generator."""
    adversarial: float = 1.0
    """Of the student's disagreement."""
    diversity: float = 1.0
    """Of the distance of two images of a class."""
    variation: float = 0.05
    """Of total variation, on a square of side 1 whatever the number of pixels."""
    magnitude: float = 0.1
    """Of the square of normalised pixels."""

    about: ClassVar[About] = About(
        name="target",
        title="TARGET",
        family="distillation",
        citation="Zhang et al., ICCV 2023",
        travels="tuned values, sample count; down synthetic images",
        adapters=("full", "lora", "none"),
        modalities=("image",),
    )

    def build(self, setting: Setting) -> Method:
        """`UserError` for options out of range."""
        for name in ("weight", "adversarial", "diversity", "variation", "magnitude"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        for name in ("batch", "images", "steps"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("temperature", "lr"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        even = self.generator_batch >= 2 and self.generator_batch % 2 == 0
        require(even, "generator_batch", self.generator_batch, "must be an even number above 0")
        kinds = tuned(setting.adapter)
        train = replace(
            averaging(setting),
            kinds=lambda _round: (*kinds, "head"),
            objectives=(setting.objective, self._rehearse),
        )
        return carried(self.about.name, setting, {"start": serve(self._start), "train": train})

    def _rehearse(self, step: Step) -> Tensor:
        """The distillation on images drawn from all earlier tasks; zero in the first."""
        tasks = range(step.round.task.index)
        if not tasks:
            return step.features.new_zeros(())
        images = [step.received[f"{IMAGES}/{task}"] for task in tasks]
        taught = [step.received[f"{LOGITS}/{task}"] for task in tasks]
        drawn = torch.randint(sum(map(len, images)), (self.batch,))
        pixels = _rows(images, drawn).float() / 255
        z_old = _rows(taught, drawn)
        z = step.model.logits(step.model.features(inputs(pixels, _reads(step.model))).float())
        return self.weight * softened_kl(z_old, z[:, : z_old.shape[1]], self.temperature)

    def _start(self, model: Model, state: State, round: Round) -> State:
        """The model so far makes images of the finished task, then the head grows."""
        spec = _reads(model)
        return grow(model, self._synthesised(model, spec, state, round) if round.task.index else state, round)

    def _synthesised(self, model: Model, spec: ImageInput, state: State, round: Round) -> State:
        """The state with images of the finished task's classes, and the model's answers to all images so far."""
        finished = round.task.index - 1
        classes = range(*round.task.offsets[finished : finished + 2])
        model.load(model_values(state.shared))
        model.parameters(())
        model.train(False)
        images = select(state.shared, IMAGES)
        images[str(finished)] = synthesise(model, spec, classes, round, images=self.images, plan=self._plan())
        logits = {task: answers(model, some, spec) for task, some in images.items()}
        return State({**state.shared, **prefix(images, IMAGES), **prefix(logits, LOGITS)}, state.server)

    def _plan(self) -> Synthesis:
        return Synthesis(
            steps=self.steps,
            batch=self.generator_batch,
            lr=self.lr,
            adversarial=self.adversarial,
            diversity=self.diversity,
            variation=self.variation,
            magnitude=self.magnitude,
        )


def _reads(model: Model) -> ImageInput:
    """What images look like to the backbone; `UserError` for one that reads texts."""
    if not isinstance(model.input, ImageInput):
        raise UserError(
            "method 'target' makes images, but this backbone reads texts; choose a vision backbone and image data, "
            "or another method, such as 'lwf'"
        )
    return model.input


def _rows(parts: Sequence[Tensor], places: Tensor) -> Tensor:
    """The rows at these places of the parts laid end to end, part by part."""
    found: list[Tensor] = []
    for part in parts:
        found.append(part[places[(places >= 0) & (places < len(part))]])
        places = places - len(part)
    return torch.cat(found)
