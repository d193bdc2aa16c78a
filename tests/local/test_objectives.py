"""Objectives against autograd of the plain formula, and the teacher's answers against the batches that were trained."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedbraid.core import Batch, Data, Round
from fedbraid.local.objectives import Distillation, Quadratic, Step, cross_entropy
from fedbraid.local.training import Training, train
from fedbraid.models import AdaptedModel, Adapter, load_backbone

Drawn = Callable[[AdaptedModel], dict[str, Tensor]]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def step(round: Round, *, logits: Tensor | None = None, taught: Tensor | None = None, **more: dict) -> Step:
    logits = torch.zeros(2, 4) if logits is None else logits
    named = {"parameters": {}, "received": {}} | more
    batch = Batch({}, torch.full((len(logits),), 2))
    return Step(None, round=round, data=None, batch=batch, features=logits, logits=logits, taught=taught, **named)


# --- the quadratic penalty ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [{}, {"anchors": "anchor"}, {"anchors": "anchor", "weights": "fisher"}], ids=str)
def test_the_quadratic_and_its_gradient(kinds: dict[str, str], the_round: Round) -> None:
    """`mu / 2 sum F (w - w0)^2` over what has an anchor, and `mu F (w - w0)`."""
    shapes = {"lora_B/x": (3, 2), "lora_A/x": (2, 5), "head/1": (2, 4)}
    w = {k: nn.Parameter(normal(*s, seed=i)) for i, (k, s) in enumerate(shapes.items())}
    w0 = {k: normal(*s, seed=i + 10) for i, (k, s) in enumerate(shapes.items()) if k != "head/1"}
    fisher = {k: normal(*shapes[k], seed=i + 20).square() for i, k in enumerate(w0)}
    start = "anchor/" if kinds else ""
    received = {f"{start}{k}": v for k, v in w0.items()} | {f"fisher/{k}": v for k, v in fisher.items()}
    found = Quadratic(0.7, **kinds)(step(the_round, parameters=w, received=received | {"other/x": torch.ones(3)}))
    weight = {k: fisher[k] if "weights" in kinds else torch.ones_like(w0[k]) for k in w0}
    plain = 0.35 * sum(
        f * (a - b) ** 2
        for k in w0
        for a, b, f in zip(*(t.flatten().tolist() for t in (w[k], w0[k], weight[k])), strict=True)
    )
    assert found.item() == pytest.approx(plain, rel=1e-5)
    gradients = torch.autograd.grad(found, list(w.values()), allow_unused=True)
    for (key, value), gradient in zip(w.items(), gradients, strict=True):
        if key in w0:
            assert torch.allclose(gradient, 0.7 * weight[key] * (value - w0[key]), rtol=1e-5), key
        else:
            assert gradient is None  # has no anchor


def test_nothing_to_hold_costs_nothing(the_round: Round) -> None:
    w = {"head/1": nn.Parameter(torch.ones(2, 4))}
    assert Quadratic(5.0, anchors="anchor")(step(the_round, parameters=w, received={"head/1": torch.zeros(2, 4)})) == 0


# --- distillation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("known", [2, 1])
def test_distillation_is_the_divergence_over_what_the_teacher_knows(
    known: int, temperature: float, the_round: Round
) -> None:
    logits, taught = normal(6, 4, seed=0).requires_grad_(), normal(6, known, seed=1)
    found = Distillation(0.5, temperature)(step(the_round, logits=logits, taught=taught))
    p, q = ((z / temperature).softmax(1) for z in (taught, logits[:, :known]))
    plain = 0.5 * temperature**2 * (p * (p / q).log()).sum() / 6
    assert found.item() == pytest.approx(plain.item(), rel=1e-4, abs=1e-7)
    torchs = F.kl_div(q.log(), p, reduction="batchmean") * temperature**2 * 0.5
    assert found.item() == pytest.approx(torchs.item(), rel=1e-4, abs=1e-7)
    (gradient,) = torch.autograd.grad(found, logits)
    assert not gradient[:, known:].any()
    assert torch.allclose(gradient[:, :known], 0.5 * temperature * (q - p) / 6, atol=1e-6)


def test_no_teacher_costs_nothing_and_neither_does_one_who_agrees(the_round: Round) -> None:
    logits = normal(6, 4, seed=0)
    assert Distillation(0.5, 2.0)(step(the_round, logits=logits)) == 0
    shifted = logits[:, :2] + 3  # a softmax does not see what is added to all
    assert abs(Distillation(0.5, 2.0)(step(the_round, logits=logits, taught=shifted)).item()) < 1e-6


# --- the teacher's answers ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noisy:
    """Samples that augmentation changes, by the generator that shuffles them."""

    data: Data
    client: str = "7"

    def __len__(self) -> int:
        return len(self.data)

    def batches(
        self, size: int, *, device: torch.device, shuffle: torch.Generator | None = None, augment: bool = False
    ) -> Iterator[Batch]:
        for batch in self.data.batches(size, device=device, shuffle=shuffle):
            noise = torch.randn(batch.inputs["pixel_values"].shape, generator=shuffle) if augment else 0
            yield Batch({"pixel_values": batch.inputs["pixel_values"] + noise}, batch.labels)


@pytest.mark.parametrize("augment", [True, False])
def test_the_objectives_see_the_teachers_answers_to_the_very_batch(
    augment: bool, images: Data, the_round: Round, drawn: Drawn
) -> None:
    """The teacher knows one task less, answers without dropout, and changes nothing in the training."""
    data = Noisy(replace(images, labels=images.labels % 2 + 2))
    model = AdaptedModel(load_backbone("tiny"), Adapter(rank=3, blocks="0", dropout=0.3))
    values = drawn(model)
    teacher = {key: value * 0.5 for key, value in values.items() if key != "head/1"}
    plan = Training(epochs=2, batch_size=8, lr=1e-2, augment=augment)
    seen: list[tuple[Tensor, Tensor]] = []

    def record(step: Step) -> Tensor:
        seen.append((step.batch.inputs["pixel_values"].clone(), step.taught.clone()))
        return step.features.new_zeros(())

    def run(**more) -> dict[str, Tensor]:
        options = {"shared": values, "training": plan, "objectives": [cross_entropy, record]} | more
        return train(model, values, ("lora_A", "lora_B", "head/1"), data, the_round, **options)

    taught = run(teacher=teacher)
    model.load(teacher)
    model.train(False)
    assert len(seen) == 2 * 4
    assert len({tuple(pixels.flatten().tolist()) for pixels, _ in seen}) == 8  # no batch comes twice
    for pixels, answer in seen:
        with torch.no_grad():
            expected = model.logits(model.features({"pixel_values": pixels}))
        assert answer.shape == (len(pixels), 2)
        assert not answer.requires_grad
        assert torch.allclose(answer, expected, atol=1e-5)
    alone = run(objectives=[cross_entropy])
    assert all(torch.equal(taught[key], alone[key]) for key in alone)
