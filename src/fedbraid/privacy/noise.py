"""Noise that its client alone can reproduce.

Everything else in a run is a function of (seed, task, phase, round, client, purpose), which the server knows: noise
drawn from it could be subtracted. So noise also takes a secret of 32 bytes that a client draws once a run and never
sends. Under the secret it is still a function of the round, so a client that keeps its secret resumes bit for bit, and
a message that is sent twice does not average its noise away.

    key     = HMAC-SHA256(secret, derive(round, purpose, client) | SHA-256(what was received))
    numbers = SHAKE-256(key | 0), SHAKE-256(key | 1), ...          8 bytes a number, 53 bits of them used

What was received is in the key because the same noise on two different sums cancels in their difference: a server that
asks for one round twice, with two models, gets two independent noises. For the same reason a secret serves one run
with one configuration: another clip or another noise multiplier needs another secret.

A generator of torch is not used, since on a CPU it keeps 32 bits of its seed: 2^32 trials would remove the noise.

Mironov, On Significance of the Least Significant Bits for Differential Privacy, CCS 2012: floating-point noise reaches
only some sums, so the low bits of a result can tell which sum was inside. `mechanisms.release` therefore rounds to a
grid of about a millionth of the noise, which removes those bits; no proof covers the arithmetic above it, and the
normal numbers here end at 8.57 standard deviations, beyond which one of 10^16 would lie.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedbraid.algebra import Tensors, raw
from fedbraid.core import ClientId, Round
from fedbraid.errors import UserError

SECRET_BYTES = 32
BLOCK = 2**20
"""Numbers that are drawn at once, which bounds the memory of the byte stream."""


def fresh_secret() -> bytes:
    """A new secret from the operating system. It stays with the client, beside the run's state, and serves one run."""
    return secrets.token_bytes(SECRET_BYTES)


class NoiseSource:
    """Random numbers by a key; what was drawn is never drawn again."""

    __slots__ = ("_blocks", "_key")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._blocks = 0

    def uniform(self, count: int) -> Tensor:
        """(count) numbers in [0, 1) in fp64, multiples of 2^-53."""
        parts = [self._block(min(BLOCK, count - start)) for start in range(0, count, BLOCK)]
        words = np.concatenate(parts) if parts else np.zeros(0, "<u8")
        return torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers in fp64 (Box and Muller, 1958)."""
        count = math.prod(shape)
        pairs = self.uniform(2 * ((count + 1) // 2)).reshape(2, -1)
        radius = (-2 * torch.log1p(-pairs[0])).sqrt()
        angle = 2 * math.pi * pairs[1]
        return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count].reshape(tuple(shape))

    def _block(self, count: int) -> np.ndarray:
        stream = hashlib.shake_256(self._key + self._blocks.to_bytes(8, "big")).digest(8 * count)
        self._blocks += 1
        return np.frombuffer(stream, "<u8")


def noise_generator(secret: bytes, round: Round, client: ClientId, *, purpose: str, received: Tensors) -> NoiseSource:
    """The noise of one use in one round; every use needs a purpose of its own, such as "grams" or "steps".

    `received` is everything that the server sent and the noised sums depend on.
    """
    if len(secret) != SECRET_BYTES:
        raise UserError(
            f"the noise secret of client {client} has {len(secret)} bytes; it needs {SECRET_BYTES}, from fresh_secret"
        )
    place = round.derive(f"noise/{purpose}", client).to_bytes(8, "big")
    return NoiseSource(hmac.digest(secret, place + digest_of(received), "sha256"))


def digest_of(tensors: Tensors) -> bytes:
    """A hash of names, types, shapes and values."""
    found = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key]
        found.update(repr((key, str(tensor.dtype), tuple(tensor.shape))).encode())
        found.update(raw(tensor))
    return found.digest()
