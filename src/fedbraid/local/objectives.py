"""Training objectives: functions of one step that add up.

An objective sees a `Step` and returns a scalar; a method trains on the sum of its objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from fedbraid.algebra import Tensors
from fedbraid.core import Batch, Data, Model, Round
from fedbraid.models.language import next_tokens


@dataclass(frozen=True)
class Step:
    """One training step: the model, what the client received, the batch and what the model makes of it."""

    model: Model
    parameters: Mapping[str, nn.Parameter]
    """What is trained, by state key."""
    received: Tensors
    """What the client received, on the model's device."""
    round: Round
    data: Data
    batch: Batch
    features: Tensor
    logits: Tensor
    """(n, classes seen so far)."""
    taught: Tensor | None = None
    """The teacher's logits of this batch, where there is a teacher."""


Objective = Callable[[Step], Tensor]


def cross_entropy(step: Step) -> Tensor:
    """Cross-entropy over the classes of the current task, so that absent classes are not pushed down."""
    classes = step.round.task.classes
    return F.cross_entropy(step.logits[:, classes.start : classes.stop], step.batch.labels - classes.start)


def squared_error(step: Step) -> Tensor:
    """The mean squared distance of the head's one output from the number that is to be told."""
    return F.mse_loss(step.logits[:, 0], targets(step.batch).to(step.logits.dtype))


def targets(batch: Batch) -> Tensor:
    """The true numbers of a batch; `ValueError` where it has classes alone."""
    if batch.targets is None:
        raise ValueError("the batch has no targets: its data set is one of classes")
    return batch.targets


@dataclass(frozen=True)
class NextToken:
    """Cross-entropy of the answers' tokens, the mean over the batch's; `smoothing` goes to the vocabulary evenly."""

    smoothing: float = 0.0

    def __call__(self, step: Step) -> Tensor:
        right = next_tokens(step.batch.inputs)
        return F.cross_entropy(step.logits.float(), right, label_smoothing=self.smoothing)


next_token = NextToken()
"""What language models are trained on."""


def adapter_penalty(step: Step) -> Tensor:
    """What the adapter itself asks for, such as keys that match their queries."""
    return step.model.penalty()


@dataclass(frozen=True)
class Quadratic:
    """`strength / 2 * sum weight (w - anchor)^2` over the trained values that have an anchor.

    Anchors are received under `<anchors>/<key>`, or under the key itself where no kind is given; weights under
    `<weights>/<key>`, and are one where no kind is given.
    """

    strength: float
    anchors: str = ""
    weights: str = ""

    def __call__(self, step: Step) -> Tensor:
        distance = step.features.new_zeros(())
        for key, value in step.parameters.items():
            anchor = step.received.get(f"{self.anchors}/{key}" if self.anchors else key)
            if anchor is None:
                continue
            square = (value - anchor).square()
            distance = distance + (square * step.received[f"{self.weights}/{key}"] if self.weights else square).sum()
        return self.strength / 2 * distance


@dataclass(frozen=True)
class Distillation:
    """`weight T^2 KL(teacher || model)` over the classes that the teacher knows, both softened by the temperature T.

    Hinton et al., Distilling the Knowledge in a Neural Network, 2015; zero in rounds without a teacher.
    """

    weight: float
    temperature: float

    def __call__(self, step: Step) -> Tensor:
        if step.taught is None:
            return step.features.new_zeros(())
        known = step.taught.shape[1]
        return self.weight * softened_kl(step.taught, step.logits[:, :known], self.temperature)


def softened_kl(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """`T^2 KL(softmax(teacher / T) || softmax(student / T))`, the mean over rows."""
    target = (teacher / temperature).log_softmax(1)
    given = (student / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(given, target, log_target=True, reduction="batchmean")
