"""What all sides of one masked sum agree on before it starts.

The digest of a session goes into every key, seal and signature, so that a message of another run, round, cohort,
threshold or layout is refused wherever it turns up. Run and round together name a sum and are used once: a second
attempt of a round needs a name of its own.

The threshold t is the number of clients that must take part until the end. Each client gives away one of two secrets
of every other client, and c clients in league with a lying server both; the server could ask different clients for
different ones and gets both only if `2 t <= n + c`. Hence `t > n / 2` at the least, and by default `t > 2 n / 3`, which
bears `c <= n / 3`; fewer than a third of the clients may be lost.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fedbraid.errors import RunError, UserError
from fedbraid.secure.ciphers import KEY, digest
from fedbraid.secure.fixed_point import Layout

ClientId = str

FEWEST = 3
"""Clients in a sum: a sum of two discloses each to the other one."""

_TOLD = 3
"""Of so many refused messages an error tells the reasons."""


class BelowThreshold(RunError):
    """Too few clients are left for a masked sum; nothing was summed."""


@dataclass(frozen=True)
class Session:
    """One masked sum: plain data, equal on all sides.

    `identities` are the clients' long-term Ed25519 public keys, of all clients or of none. Without them only a server
    that follows the protocol is kept from single updates: a lying one could stand between any two clients.

    >>> Session("run", "task 0, train round 0", tuple("abcdef"), Layout(())).needed
    5
    """

    run: str
    round: str
    clients: tuple[ClientId, ...]
    layout: Layout
    threshold: int | None = None
    identities: Mapping[ClientId, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.clients)
        if list(self.clients) != sorted({*self.clients}):
            raise UserError("the clients of a masked sum are named once each, in sorted order")
        if n < FEWEST:
            raise UserError(f"a masked sum of {n} clients hides nothing; it takes {FEWEST} or more")
        lowest = max(FEWEST, n // 2 + 1)
        if not lowest <= self.needed <= n:
            raise UserError(f"the threshold of {n} clients is {lowest} to {n}, not {self.needed}")
        if self.identities and {*self.identities} != {*self.clients}:
            odd = sorted({*self.identities} ^ {*self.clients})
            raise UserError(f"identities are given for all clients or for none; they differ in {odd}")
        if any(len(key) != KEY for key in self.identities.values()):
            raise UserError(f"an identity is an Ed25519 public key of {KEY} bytes; make one with new_identity()")

    @property
    def needed(self) -> int:
        """The threshold: more than two thirds of the clients where none is given."""
        return max(FEWEST, 2 * len(self.clients) // 3 + 1) if self.threshold is None else self.threshold

    @cached_property
    def digest(self) -> bytes:
        identities = digest(*(self.identities[client] for client in sorted(self.identities)))
        clients = digest(*self.clients)
        return digest(
            "fedbraid masked sum 1", self.run, self.round, clients, self.needed, self.layout.digest, identities
        )

    @cached_property
    def points(self) -> Mapping[ClientId, int]:
        """Where each client's shares are taken."""
        return {client: place for place, client in enumerate(self.clients, start=1)}

    def require(self, present: Collection[ClientId], done: str, refused: Mapping[ClientId, str] | None = None) -> None:
        """`BelowThreshold` where fewer than the threshold have done it; `refused` says why some have not."""
        count = len({*present})
        if count < self.needed:
            missing = sorted({*self.clients} - {*present})
            reasons = "".join(f"; {reason}" for _, reason in sorted((refused or {}).items())[:_TOLD])
            raise BelowThreshold(
                f"{self.round}: {count} of {len(self.clients)} clients {done}, the threshold is {self.needed}; "
                f"nothing was summed; missing: {', '.join(missing)}{reasons}; start the round anew under another name"
            )
