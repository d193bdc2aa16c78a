"""Private steps are plain steps but for clip, sample and noise; diagonal Grams too."""

from dataclasses import replace

import pytest
import torch

from fedbraid.core import Round, Task
from fedbraid.errors import UserError
from fedbraid.local.measures import FEATURES, GramOf, Passes, measure_grams
from fedbraid.local.objectives import Step, cross_entropy
from fedbraid.local.private import noisy_gradients
from fedbraid.local.training import Training, train
from fedbraid.models import Adapter
from fedbraid.privacy.gradients import poisson_sample
from fedbraid.privacy.noise import noise_generator
from fedbraid.privacy.protection import KEY, Protection, as_tensor
from fedbraid.testing.worlds import image_world

WORLD = image_world()
KINDS = ("lora_A", "lora_B", "head/0")
SECRET = bytes(range(32))


def _model(adapter: Adapter | None = None):
    return WORLD.model(adapter or Adapter("lora", rank=2))


def _setting():
    """(model, weights, data, round) of one client in the first task."""
    model, task = _model(), WORLD.tasks[0]
    draws = torch.Generator().manual_seed(0)
    weights = {**model.fresh(draws), **model.fresh_head(task, draws)}
    weights |= {key: torch.randn(value.shape, generator=draws) / 9 for key, value in weights.items() if "lora_B" in key}
    data = WORLD.clients["a"].train(task).remembering({KEY: as_tensor(SECRET)})
    return model, weights, data, Round(task, "train", 0, 0)


def _protection(**changed) -> Protection:
    plain = Protection(samples=10, batch_size=5, epochs=1, sigma=1e-12, clip=1e6, sigma_grams=1e-12, clip_grams=1e9)
    return replace(plain, **changed)


def test_without_clip_and_noise_a_step_has_the_plain_gradient_of_the_same_samples() -> None:
    model, weights, data, round = _setting()
    model.load(weights)
    parameters = model.parameters(KINDS)
    protection = _protection()

    def loss(batch):
        features = model.features(batch.inputs)
        logits = model.logits(features.float())
        return cross_entropy(Step(model, parameters, {}, round, data, batch, features, logits))

    next(noisy_gradients(model, parameters, data, round, received=weights, protection=protection, loss=loss))
    found = {key: parameter.grad.clone() for key, parameter in parameters.items()}

    source = noise_generator(SECRET, round, "a", purpose="steps", received=weights)
    drawn = poisson_sample(len(data), protection.rate, source)
    assert 0 < len(drawn) < len(data)
    batch = data.recall(data.ids[drawn], device=model.device)
    plain = torch.autograd.grad(loss(batch) * len(drawn) / protection.expected, list(parameters.values()))
    for key, gradient in zip(parameters, plain, strict=True):
        torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-6)


def _trained(protection: Protection, secret: bytes = SECRET, **weights_changed):
    model, weights, data, round = _setting()
    data = data.remembering({KEY: as_tensor(secret)})
    return train(
        model,
        weights,
        KINDS,
        data,
        round,
        shared={**weights, **weights_changed},
        training=Training(protection=protection),
        objectives=(cross_entropy,),
    )


def test_the_same_key_gives_the_same_bits_and_another_key_or_another_broadcast_others() -> None:
    protection = _protection(sigma=0.5, clip=0.1)
    first, again = _trained(protection), _trained(protection)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(name.startswith(("metric", "count")) for name in first), "no loss, no number of samples"
    for other in (_trained(protection, bytes(32)), _trained(protection, extra=torch.zeros(1))):
        assert not torch.equal(first["head/0"], other["head/0"])


def test_a_client_without_samples_sends_noise_of_the_same_form() -> None:
    model, weights, _, round = _setting()
    task = WORLD.tasks[1]
    empty = WORLD.clients["b"].train(task)
    assert len(empty) == 0
    weights |= model.fresh_head(task, torch.Generator().manual_seed(1))
    options = {
        "shared": weights,
        "training": Training(protection=_protection(sigma=1.0)),
        "objectives": (cross_entropy,),
    }
    found = train(model, weights, KINDS, empty, replace(round, task=task), **options)
    assert {key: value.shape for key, value in found.items()} == {key: weights[key].shape for key in found}
    assert not torch.equal(found["head/0"], weights["head/0"])


def test_diagonal_grams_are_the_plain_ones_but_for_clip_and_noise() -> None:
    model, weights, data, round = _setting()
    layer = next(iter(model.layers))
    wanted = [
        GramOf("a", layer, "diagonal"),
        GramOf("b", layer, "diagonal", projection=weights[f"lora_A/{layer}"]),
        GramOf("head", FEATURES, "diagonal", ones="joined"),
    ]
    plain = measure_grams(model, weights, data, round, wanted=wanted, passes=Passes())
    noisy = measure_grams(model, weights, data, round, wanted=wanted, passes=Passes(protection=_protection()))
    assert noisy.keys() == plain.keys()
    for key, value in plain.items():
        torch.testing.assert_close(noisy[key], value, rtol=1e-4, atol=1e-1)
    small = measure_grams(
        model, weights, data, round, wanted=wanted, passes=Passes(protection=_protection(clip_grams=1.0))
    )
    length = torch.stack([value.square().sum() for value in small.values()]).sum().sqrt()
    assert length <= len(data) * (1 + 1e-6), "no sample adds more than the clip"
    empty = WORLD.clients["b"].train(WORLD.tasks[1])
    nobody = measure_grams(model, weights, empty, round, wanted=wanted, passes=Passes(protection=_protection()))
    assert {key: value.shape for key, value in nobody.items()} == {key: value.shape for key, value in plain.items()}


def test_a_gram_that_is_not_diagonal_is_refused() -> None:
    model, weights, data, round = _setting()
    wanted = [GramOf("head", FEATURES)]
    with pytest.raises(UserError, match="no private release is known for the Gram of 'head'"):
        measure_grams(model, weights, data, round, wanted=wanted, passes=Passes(protection=_protection()))


def test_what_follows_from_the_declared_number_alone() -> None:
    protection = Protection(samples=250, batch_size=16, epochs=3, sigma=1.0)
    assert (protection.rate, protection.steps, protection.expected) == (0.064, 48, 16.0)
    assert (protection.training.times, protection.training.rate) == (48, 0.064)
    whole = replace(protection, samples=10)
    assert (whole.rate, whole.steps, whole.expected) == (1.0, 3, 10.0)
    assert Task(0, (0, 2)).seen == 2
