"""When a round ends, and who is told of what happens in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedbraid.core import ClientId, Refusal

Tell = Callable[..., None]
"""Takes note of what happens, for who watches the run: `tell("received", client=..., bytes=...)`."""


def tell_nobody(_what: str, **_facts: Any) -> None:
    """For runs that nobody watches."""


def faults(failed: Mapping[ClientId, str], refused: Mapping[ClientId, Refusal], most: int = 3) -> str:
    """Why some have not answered, as text: the first few."""
    told = [f"client {client}: {reason}" for client, reason in sorted(failed.items())]
    told += [str(refusal) for _, refusal in sorted(refused.items())]
    more = [f"and {len(told) - most} more"] if len(told) > most else []
    return "; ".join([*told[:most], *more])


@dataclass(frozen=True)
class Rules:
    """When a round ends. `deadline` is in seconds, `quorum` the share of the cohort that must have answered.

    A party that fails is asked again up to `retries` times while there is time.
    """

    deadline: float | None = None
    quorum: float = 1.0
    retries: int = 0

    def needed(self, cohort: int) -> int:
        """How many of a cohort must have answered: at least one."""
        return max(1, math.ceil(self.quorum * cohort - 1e-9))

    def over(self, begin: float, share: float = 1.0) -> float:
        """When this share of a round's time is over that began then."""
        return math.inf if self.deadline is None else begin + share * self.deadline
