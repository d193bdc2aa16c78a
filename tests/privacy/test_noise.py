"""Noise that a secret is needed for: known answers, its law, and what changes it."""

import hashlib
import hmac
import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from fedbraid.core import Round, Task
from fedbraid.errors import UserError
from fedbraid.privacy import NoiseSource, fresh_secret, noise_generator
from fedbraid.privacy.noise import BLOCK

ROUND = Round(Task(0, (0, 2)), "train", 3, seed=1)
SECRET = bytes(range(32))
SHARED = {"lora_A/fc1": torch.ones(2, 3), "head/0": torch.zeros(2, 4, dtype=torch.bfloat16), "scale": torch.tensor(1.0)}


def drawn(secret=SECRET, round=ROUND, client="7", purpose="grams", received=SHARED) -> torch.Tensor:
    return noise_generator(secret, round, client, purpose=purpose, received=received).normal((40,))


def test_numbers_are_the_stream_of_the_key() -> None:
    source = NoiseSource(b"key")
    first, second = source.uniform(3), source.uniform(1)
    for number, place, block in ((first[0], 0, 0), (first[2], 2, 0), (second[0], 0, 1)):
        stream = hashlib.shake_256(b"key" + block.to_bytes(8, "big")).digest(8 * place + 8)[-8:]
        assert number.item() == (int.from_bytes(stream, "little") >> 11) / 2**53


def test_the_key_is_a_hash_under_the_secret() -> None:
    found = noise_generator(SECRET, ROUND, "7", purpose="grams", received={}).uniform(1)
    message = ROUND.derive("noise/grams", "7").to_bytes(8, "big") + hashlib.sha256().digest()
    expected = NoiseSource(hmac.new(SECRET, message, "sha256").digest()).uniform(1)
    assert torch.equal(found, expected)


def test_the_same_place_has_the_same_noise() -> None:
    state = torch.get_rng_state()
    assert torch.equal(drawn(), drawn(received=dict(reversed(SHARED.items()))))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "other",
    [
        {"secret": bytes(31) + b"\1"},
        {"round": replace(ROUND, index=4)},
        {"round": replace(ROUND, seed=2)},
        {"client": "8"},
        {"purpose": "steps"},
        {"received": {**SHARED, "scale": torch.tensor(1.0 + 2**-23)}},
        {"received": {**SHARED, "lora_A/fc1": torch.ones(3, 2)}},
        {"received": {key: SHARED[key] for key in ("scale", "head/0")}},
    ],
)
def test_any_other_place_has_other_noise(other: dict) -> None:
    assert not torch.isin(drawn(), drawn(**other)).any()


def test_noise_is_normal_and_goes_on() -> None:
    source = noise_generator(SECRET, ROUND, "7", purpose="grams", received={})
    first, second = source.normal((100, 100)), source.normal((10_001,))
    assert first.shape == (100, 100)
    assert first.dtype == torch.float64
    for numbers in (first.flatten(), second):
        assert stats.kstest(numbers.numpy(), "norm").pvalue > 0.01
        assert abs(numbers.var().item() - 1) < 0.06
    together = torch.stack([first.flatten(), second[:10_000]])
    assert abs(torch.corrcoef(together)[0, 1].item()) < 0.04
    halves = first.flatten().reshape(2, -1)  # both numbers of a Box-Muller pair
    assert abs(torch.corrcoef(halves)[0, 1].item()) < 0.05
    assert source.normal(()).shape == ()
    assert source.normal((0, 3)).shape == (0, 3)


def test_long_streams_are_blocks_that_differ() -> None:
    numbers = NoiseSource(b"key").uniform(BLOCK + 5)
    assert numbers.shape == (BLOCK + 5,)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert not torch.equal(numbers[:5], numbers[BLOCK:])
    assert abs(numbers.mean().item() - 0.5) < 4 / math.sqrt(12 * BLOCK)


def test_secrets_are_whole_and_fresh() -> None:
    assert len(fresh_secret()) == 32
    assert fresh_secret() != fresh_secret()
    with pytest.raises(UserError, match="client 7 has 5 bytes"):
        drawn(secret=b"short")
