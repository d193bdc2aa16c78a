"""Sending only what is new.

The server remembers when each shared tensor last changed and what each client has received, so a download carries the
tensors that a client does not have in their present form. The memory is plain data and part of a checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import ClientId


class Delivery:
    """Versions of the shared tensors, and the version up to which each client has them."""

    def __init__(self, memory: Mapping | None = None) -> None:
        memory = memory or {}
        self._clock: int = memory.get("clock", 0)
        self._changed: dict[str, tuple[str, int]] = {
            key: (digest, version) for key, (digest, version) in memory.get("changed", {}).items()
        }
        self._has: dict[ClientId, int] = dict(memory.get("has", {}))

    def memory(self) -> dict:
        """Plain data from which an equal `Delivery` is made."""
        return {
            "clock": self._clock,
            "changed": {k: list(v) for k, v in self._changed.items()},
            "has": {**self._has},
        }

    def publish(self, shared: Tensors) -> None:
        """Notes which tensors differ from those published before."""
        self._clock += 1
        changed: dict[str, tuple[str, int]] = {}
        for key, tensor in shared.items():
            digest = _digest(tensor)
            before = self._changed.get(key)
            changed[key] = before if before and before[0] == digest else (digest, self._clock)
        self._changed = changed

    def news(self, client: ClientId) -> tuple[str, ...]:
        """The keys that this client needs; it counts as having received them."""
        since = self._has.get(client, 0)
        self._has[client] = self._clock
        return tuple(key for key, (_, version) in self._changed.items() if version > since)


def _digest(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous().view(torch.uint8) if tensor.ndim else tensor.detach().cpu().reshape(1)
    header = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    return hashlib.blake2b(header + data.numpy().tobytes(), digest_size=8).hexdigest()
