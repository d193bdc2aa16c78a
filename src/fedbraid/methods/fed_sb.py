"""Fed-SB: train and average only a small square matrix between two fixed ones.

Singhal et al., Fed-SB: A Silver Bullet for Extreme Communication Efficiency and Performance in (Private) Federated LoRA
Fine-Tuning, 2025 (arXiv 2502.15436), on LoRA-SB (Ponkshe et al., 2024, arXiv 2411.19557).

    W = W0 + s B R A        R* = sum_i p_i R_i, so that  s B R* A = sum_i p_i s B R_i A  is exact

B (d_out x r) and A (r x d_in) are set once, so that the first update is the best of its rank to the first step of full
fine-tuning: with U S V^T the leading singular triplets of that step, B = U, A = V^T, R = S / s. Clients send sums of
the gradients of the layers' weights, taken on some samples with the pre-trained weights and the first fresh head:

    first_step = "adamw"    -lr sign(sum_i g_i)            the sign of a sum needs the sum: d_out x d_in numbers, once
    first_step = "sgd"      -lr sum_i g_i / sum_i n_i      linear, so sketches add up: (d_out + 1.5 d_in) q numbers

Travels up: once the gradient sums; then R (r x r), the head, the sample count. Travels down: once B and A; then R.
Differs from the public code: that takes the gradients on pooled data in one place. A client's gradient is scaled to all
of its samples here. The paper leaves the step's rate open, and how clients share in the 0.1 % of samples that it uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedbraid.algebra import Statistic, Tensors, select
from fedbraid.core import Data, Method, Model, Phase, Round, State
from fedbraid.linalg import leading_triplets
from fedbraid.local.gradients import measure_gradients
from fedbraid.low_rank import Factors, probes, unsketch
from fedbraid.methods.base import About, Options, Setting, model_values, require
from fedbraid.methods.fedavg import averaging, carried
from fedbraid.phases import Measure, Measured, first_task, serve
from fedbraid.quantities import GRADIENT, SAMPLES, SUM

SKETCH = SUM.saying("linear images of the gradient of the loss, from which it is recovered", "gradient")
ROUNDING = 1e-6
"""What of a sketch is rounding, relative to its norm: it travels in fp32."""


@dataclass(frozen=True)
class FedSB(Options):
    """The options of Fed-SB."""

    init: Literal["gradient", "weight"] = "gradient"
    """What B and A are taken from: the first step of full fine-tuning, or the pre-trained weights as in LoRA-XS."""
    first_step: Literal["adamw", "sgd"] = "adamw"
    """Whose first step: AdamW's is the published one, of SGD's a sketch is enough."""
    init_samples: int = 64
    """The samples of each client that gradients are taken on; the paper takes 0.1 % of all."""
    init_lr: float = 1e-5
    """The learning rate of that step: not stated in the paper; in the code the training rate over the warm-up steps."""
    sketch_width: int = 0
    """q under `sgd`; 0 is 4 r + 8. What exceeds the sketch's rank disturbs the triplets."""

    about: ClassVar[About] = About(
        name="fed_sb",
        title="Fed-SB",
        family="exact aggregation",
        citation="Singhal et al., 2025, arXiv 2502.15436",
        travels="once: sums of weight gradients; then the core R (r x r), head, sample count",
        adapters=("lora_xs",),
        modalities=("image", "text", "language"),
        numbers=True,
    )

    def build(self, setting: Setting) -> Method:
        """`UserError` for options out of range."""
        require(self.init_samples >= 1, "init_samples", self.init_samples, "must be at least 1")
        require(self.init_lr > 0, "init_lr", self.init_lr, "must be above 0")
        rank, width = setting.adapter.rank, self.sketch_width
        require(width == 0 or width >= rank, "sketch_width", width, f"must be at least the rank, {rank}, or 0")
        phases: dict[str, Phase] = {"train": averaging(setting)}
        if self.init == "gradient":
            phases = {"start": serve(_fresh_head), **self._first_step(setting), **phases}
        return carried(self.about.name, setting, phases)

    def _first_step(self, setting: Setting) -> dict[str, Phase]:
        """Gradients, and B, R and A from them; where nobody has samples of the first task, from the weights."""
        width = self.sketch_width or 4 * setting.adapter.rank + 8
        sent = {"gradient": GRADIENT} if self.first_step == "adamw" else {"columns": SKETCH, "rows": SKETCH}

        def gradients(model: Model, shared: Tensors, data: Data, round: Round) -> Tensors:
            return measure_gradients(
                model,
                model_values(shared),
                data,
                round,
                samples=self.init_samples,
                batch_size=setting.training.batch_size,
                objectives=(setting.objective,),
                form=_dense if self.first_step == "adamw" else partial(_sketched, round, width),
            )

        def settle(model: Model, state: State, total: Statistic, round: Round) -> State:
            shared = dict(state.shared)
            for layer, shape in model.layers.items():
                step = -self.init_lr * self._direction(total, layer, shape, round, width)
                left, sizes, right = leading_triplets(step.float(), setting.adapter.rank)
                shared |= {f"core_B/{layer}": left.contiguous(), f"core_A/{layer}": right.contiguous()}
                shared[f"core_R/{layer}"] = torch.diag(sizes) / setting.adapter.scale
            return State(shared, state.server)

        return {
            "gradients": Measure(
                Measured(gradients, {"count": SAMPLES, **sent}),
                settle,
                cohort=setting.cohort,
                tasks=first_task,
                evaluated=False,
            ),
            "adapter": serve(_ensure_core, tasks=first_task),
        }

    def _direction(self, total: Statistic, layer: str, shape: tuple[int, int], round: Round, width: int) -> Tensor:
        """(d_out x d_in): the sign of the summed gradient, or its mean over the samples."""
        if self.first_step == "adamw":
            return total[f"gradient/{layer}"].sign()
        columns, left_probe = total[f"columns/{layer}"], _probes(round, layer, shape, width)[1]
        floor = ROUNDING * torch.linalg.norm(left_probe @ columns).item()
        left, right = unsketch(columns, total[f"rows/{layer}"], left_probe, rank=width, floor=floor)
        return left @ right / total["count"]


def _fresh_head(model: Model, state: State, round: Round) -> State:
    head = model.fresh_head(round.task, round.generator("head"))
    return State({**state.shared, **head}, state.server)


def _ensure_core(model: Model, state: State, round: Round) -> State:
    """The state as it is where gradients have set the adapter, else with LoRA-XS's first values."""
    if select(state.shared, "core_R"):
        return state
    return State({**state.shared, **model.fresh(round.generator("adapter"))}, state.server)


def _dense(layer: str, gradient: Tensor) -> Tensors:
    return {f"gradient/{layer}": gradient}


def _sketched(round: Round, width: int, layer: str, gradient: Tensor) -> Tensors:
    right_probe, left_probe = _probes(round, layer, (gradient.shape[0], gradient.shape[1]), width)
    columns = gradient @ right_probe.to(gradient.device)
    return {f"columns/{layer}": columns, f"rows/{layer}": left_probe.to(gradient.device) @ gradient}


def _probes(round: Round, layer: str, shape: tuple[int, int], width: int) -> Factors:
    """The same for everyone, since they follow from the round."""
    return probes(shape, width, round.generator(f"probe of {layer}"))
