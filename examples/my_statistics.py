"""A method that sends more than tuned values: FedAvg whose head is drawn to the least-squares head of all clients.

After training, clients add up, over features f with a constant 1 last and one-hot answers y of the task's classes,

    gram = sum f f^T,    answers = sum y f^T,    doubt = sum (1 - p(right answer)),    right = number of right answers

and unless all are right the server sets the head to (1 - s) W + s (sum y f^T) (sum f f^T)^-1, with s the mean doubt.

fedbraid run --method examples/my_statistics.py:DrawnHead
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from fedbraid.api import (
    About,
    Data,
    Measured,
    Method,
    Model,
    Options,
    Round,
    Setting,
    State,
    Tensors,
    averaging,
    carried,
    linalg,
    model_values,
)
from fedbraid.api import quantities as q

GIVES = {
    "gram": q.GRAM,
    "answers": q.SUM.saying("sums of features by class: of a class with one sample, its features"),
    "doubt": q.SUM.saying("how unsure the trained model is of the right answers, in sum"),
    "right": q.COUNT.saying("how many training samples the trained model answers rightly"),
}


@dataclass(frozen=True)
class DrawnHead(Options):
    """FedAvg, and a head that is drawn to the least-squares one."""

    ridge: float = 1e-3

    about: ClassVar[About] = About(
        name="drawn_head",
        title="Drawn head",
        family="closed form",
        citation="an example",
        travels="tuned values, sample count, Gram of the features, class sums, right answers and doubt",
        adapters=("lora", "none"),
    )

    def build(self, setting: Setting) -> Method:
        train = replace(averaging(setting), sums=Measured(measure, GIVES), absorb=self.draw)
        return carried(self.about.name, setting, {"train": train})

    def draw(self, _model: Model, state: State, sums: Tensors, round: Round) -> State:
        key, gram = f"head/{round.task.index}", linalg.from_triangle(sums["gram"])
        samples = gram[-1, -1]
        if sums["right"] == samples:
            return state
        solved = linalg.right_solve(sums["answers"], gram, torch.zeros_like(sums["answers"]), ridge=self.ridge)
        head = torch.lerp(state.shared[key].double(), solved, sums["doubt"] / samples)
        return State({**state.shared, key: head.float()}, state.server)


def measure(model: Model, values: Tensors, data: Data, round: Round) -> Tensors:
    """The sums of this client, on the model with the trained values."""
    classes = round.task.classes
    sums: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        model.load(model_values(values))
        model.train(False)
        for batch in data.batches(128, device=model.device):
            features = model.features(batch.inputs).float()
            logits = model.logits(features)[:, classes.start :].double().cpu()
            y = torch.nn.functional.one_hot(batch.labels.cpu() - classes.start, len(classes)).double()
            f = torch.nn.functional.pad(features.double().cpu(), (0, 1), value=1.0)
            part = {
                "gram": f.T @ f,
                "answers": y.T @ f,
                "doubt": (1 - (logits.softmax(1) * y).sum(1)).sum(),
                "right": (logits.argmax(1) == y.argmax(1)).sum(),
            }
            sums = {name: value + sums.get(name, 0) for name, value in part.items()}
    return sums | {"gram": linalg.to_triangle(sums["gram"])}
