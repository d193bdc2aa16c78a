"""DER++: every client rehearses a few of its own old samples.

Buzzega et al., Dark Experience for General Continual Learning: a Strong, Simple Baseline, NeurIPS 2020.

    local loss + alpha mean |z(x') - z'|^2 + beta CE(z(x''), y'')        x', x'' drawn from the client's reservoir

z' are the logits that the model gave to x' at the end of x's own task. The reservoir keeps `buffer` samples of all that
the client has seen, each with equal probability (reservoir sampling).
Travels up: the tuned values and the sample count. The reservoir (numbers of own samples, their logits) never leaves the
client, but the client keeps old data: this is no rehearsal-free method.
Differs from public code: the reservoir is filled at the end of a task with the merged model's logits, not during
training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fedbraid.algebra import Tensors, prefix
from fedbraid.core import KEEP, Data, Method, Model, Round
from fedbraid.local.objectives import Step
from fedbraid.methods.base import About, Options, Setting, model_values, require, tuned
from fedbraid.methods.fedavg import averaging, carried
from fedbraid.phases import Measure, Measured
from fedbraid.quantities import SAMPLES


@dataclass(frozen=True)
class DERpp(Options):
    """The options of DER++."""

    alpha: float = 0.5
    """Of the squared distance to the stored logits."""
    beta: float = 0.5
    """Of the cross-entropy on stored labels."""
    buffer: int = 50
    """Samples in each client's reservoir."""
    batch: int = 16
    """Samples drawn from it for each of the two terms of a step."""

    about: ClassVar[About] = About(
        name="derpp",
        title="DER++",
        family="rehearsal",
        citation="Buzzega et al., NeurIPS 2020",
        travels="tuned values, sample count; clients keep old samples",
        adapters=("full", "lora", "none"),
    )

    def build(self, setting: Setting) -> Method:
        """`UserError` for options out of range."""
        for name in ("alpha", "beta"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        for name in ("buffer", "batch"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        kinds = tuned(setting.adapter)
        train = replace(
            averaging(setting),
            kinds=lambda _round: (*kinds, "head"),
            objectives=(setting.objective, self._rehearse),
        )
        remember = Measure(Measured(self._remember, {"count": SAMPLES}), cohort=setting.cohort, evaluated=False)
        return carried(self.about.name, setting, {"train": train, "remember": remember})

    def _rehearse(self, step: Step) -> Tensor:
        """Zero for a client that has seen nothing before."""
        memory = step.data.memory
        if not memory:
            return step.features.new_zeros(())
        first, _, z, known = self._drawn(step, memory)
        stored = memory["logits"][first].to(z.device)
        matched = ((z[:, : stored.shape[1]] - stored).square() * known).sum() / known.sum()
        _, labels, z, _ = self._drawn(step, memory)
        return self.alpha * matched + self.beta * F.cross_entropy(z, labels)

    def _drawn(self, step: Step, memory: Tensors) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(places in the reservoir, labels, logits, which classes the stored logits know) of a fresh draw."""
        places = torch.randint(len(memory["ids"]), (self.batch,))
        old = step.data.recall(memory["ids"][places], device=step.model.device)
        z = step.model.logits(step.model.features(old.inputs).float())
        known = torch.arange(memory["logits"].shape[1]) < memory["known"][places][:, None]
        return places, old.labels, z, known.to(z.device)

    def _remember(self, model: Model, shared: Tensors, data: Data, round: Round) -> Tensors:
        """The reservoir after this task's samples have passed it, with the logits of the model at hand."""
        answers = _answers(model, model_values(shared), data)
        memory = dict(data.memory) or {
            "ids": torch.zeros(0, dtype=torch.int64),
            "known": torch.zeros(0, dtype=torch.int64),
            "logits": torch.zeros(0, 0),
            "seen": torch.tensor(0),
        }
        seen, held = int(memory["seen"]), len(memory["ids"])
        wider = F.pad(memory["logits"], (0, answers.shape[1] - memory["logits"].shape[1]))
        place = list(range(held))  # what lies in each place: rows of the reservoir, then rows of the task
        draws = round.generator("reservoir", data.client)
        for row in torch.randperm(len(data), generator=draws).tolist():
            drawn = int(torch.randint(seen + 1, (1,), generator=draws))
            if len(place) < self.buffer:
                place.append(held + row)
            elif drawn < self.buffer:
                place[drawn] = held + row
            seen += 1
        new = {
            "ids": torch.cat([memory["ids"], data.ids])[place],
            "known": torch.cat([memory["known"], torch.full((len(data),), round.task.seen)])[place],
            "logits": torch.cat([wider, answers])[place],
            "seen": torch.tensor(seen),
        }
        return {"count": torch.tensor(float(len(data)), dtype=torch.float64), **prefix(new, KEEP)}


def _answers(model: Model, weights: Tensors, data: Data) -> Tensor:
    """(n, classes seen): the logits of all samples in their order."""
    with torch.no_grad():
        model.load(weights)
        model.train(False)
        batches = data.batches(128, device=model.device)
        return torch.cat([model.logits(model.features(batch.inputs).float()).cpu() for batch in batches])
