"""Sending only what is new.

The server remembers, for every shared tensor, when its name last changed content and when that content first appeared;
and for every client, up to when it has received. A download carries the contents that the client does not have, tells
which names now stand for contents it has already (a finished task's factors move to another name), and which names are
gone. The memory is plain data and part of a checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedbraid.algebra import Tensors, raw
from fedbraid.core import ClientId


@dataclass(frozen=True)
class News:
    """What a client needs: names to send with their tensors, (name, digest) of contents it has, names gone."""

    send: tuple[str, ...]
    same: tuple[tuple[str, str], ...]
    gone: tuple[str, ...]
    first: bool = False
    """Whether it has nothing yet."""


@dataclass(frozen=True)
class _Entry:
    digest: str
    named: int
    appeared: int


class Delivery:
    """Versions of the shared tensors, and the version up to which each client has them."""

    def __init__(self, memory: Mapping[str, Any] | None = None) -> None:
        memory = memory or {}
        self._clock: int = memory.get("clock", 0)
        self._entries = {key: _Entry(*entry) for key, entry in memory.get("entries", {}).items()}
        self._gone: dict[str, int] = dict(memory.get("gone", {}))
        self._has: dict[ClientId, int] = dict(memory.get("has", {}))

    def memory(self) -> dict[str, Any]:
        """Plain data from which an equal `Delivery` is made."""
        entries = {key: [entry.digest, entry.named, entry.appeared] for key, entry in self._entries.items()}
        return {"clock": self._clock, "entries": entries, "gone": dict(self._gone), "has": dict(self._has)}

    def publish(self, shared: Tensors) -> None:
        """Notes which tensors differ from those published before."""
        self._clock += 1
        known = {entry.digest: entry.appeared for entry in self._entries.values()}
        entries: dict[str, _Entry] = {}
        for key in sorted(shared):
            digest = digest_of(shared[key])
            before = self._entries.get(key)
            kept = before is not None and before.digest == digest
            named = before.named if before and kept else self._clock
            entries[key] = _Entry(digest, named, known.setdefault(digest, self._clock))
        removed = [key for key in self._entries if key not in entries]
        self._gone = {key: at for key, at in self._gone.items() if key not in entries}
        self._gone |= dict.fromkeys(removed, self._clock)
        self._entries = entries

    def news(self, client: ClientId) -> News:
        """What this client needs; it counts as having received it. Of equal new contents one is sent."""
        since = self._has.get(client, 0)
        self._has[client] = self._clock
        new = {key: entry for key, entry in self._entries.items() if entry.named > since}
        first = {entry.digest: key for key, entry in reversed(new.items()) if entry.appeared > since}
        send = tuple(key for key, entry in new.items() if first.get(entry.digest) == key)
        same = tuple((key, entry.digest) for key, entry in new.items() if first.get(entry.digest) != key)
        gone = tuple(key for key, at in self._gone.items() if at > since > 0)
        return News(send, same, gone, first=since == 0)

    def forget(self, client: ClientId) -> None:
        """What this client has is unknown: next time it is sent everything."""
        self._has.pop(client, None)

    def digest(self) -> str:
        """A hash of all that was published last."""
        return digest_of_all({key: entry.digest for key, entry in self._entries.items()})


def digest_of(tensor: Tensor) -> str:
    """A hash of type, shape and values."""
    found = hashlib.blake2b(f"{tensor.dtype}{tuple(tensor.shape)}".encode(), digest_size=8)
    found.update(raw(tensor))
    return found.hexdigest()


def digest_of_all(digests: Mapping[str, str]) -> str:
    """A hash of names and the hashes of what they stand for."""
    return hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()
