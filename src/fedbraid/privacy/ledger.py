"""What a client has released of one data set, as plain data, and how much it may.

Every entry is a Gaussian mechanism: a sum to which one sample adds a vector of L2 norm at most C, plus normal noise of
standard deviation sigma C. Two data sets are neighbours where one is the other with **one sample added or removed**; it
is the only relation in this package. So the number of samples is itself private: a count that is sent without noise is
outside of every epsilon.

A ledger belongs to one client's samples. Clients hold disjoint samples, and so do the tasks of a stream where nothing
is rehearsed: each then has a ledger of its own, and the largest epsilon is that of the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedbraid.errors import RunError, UserError

RELATION = "add or remove one sample"
"""The neighbouring relation of every epsilon, in words; it is written into every ledger."""


@dataclass(frozen=True)
class Budget:
    """(epsilon, delta), the most that may be spent; delta should be far below one over the number of samples."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise UserError(f"epsilon = {self.epsilon}: a privacy budget is a number above 0")
        check_delta(self.delta)


@dataclass(frozen=True)
class Release:
    """A Gaussian release with noise multiplier `sigma`, made `times` times.

    With a `rate` below 1 each is made on a Poisson sample: every sample is in with that probability, on its own (a step
    of DP-SGD). `sigma` 0 stands for a release without noise.
    """

    sigma: float
    times: int = 1
    rate: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise UserError(f"sigma = {self.sigma}: a noise multiplier is a number of at least 0")
        if self.times < 1 or int(self.times) != self.times:
            raise UserError(f"times = {self.times}: a release is made a whole number of times, at least once")
        if not 0 < self.rate <= 1:
            raise UserError(f"rate = {self.rate}: a sampling rate is above 0 and at most 1")


@dataclass(frozen=True)
class Ledger:
    """All releases of one data set; equal ones are kept as one with their number.

    >>> spent = Ledger() + Release(2.0) + Release(1.0, 10, 0.01) + Release(2.0)
    >>> spent.releases
    (Release(sigma=1.0, times=10, rate=0.01), Release(sigma=2.0, times=2, rate=1.0))
    """

    releases: tuple[Release, ...] = ()

    def __add__(self, release: Release) -> Ledger:
        """The ledger after one more release; the order in which releases were made does not matter."""
        times = {(one.sigma, one.rate): one.times for one in self.releases}
        key = (release.sigma, release.rate)
        times[key] = times.get(key, 0) + release.times
        return Ledger(tuple(Release(sigma, count, rate) for (sigma, rate), count in sorted(times.items())))

    def data(self) -> dict[str, Any]:
        """Plain data for JSON; numbers come back with the same bits."""
        return {"relation": RELATION, "releases": [asdict(release) for release in self.releases]}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Ledger:
        """The inverse of `data`; `RunError` where it is damaged, since what was spent must not be forgotten."""
        try:
            relation, rows = data["relation"], [Release(**row) for row in data["releases"]]
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"a saved privacy ledger cannot be read ({type(error).__name__}: {error}); what was spent is unknown, "
                "so restore the file from the generation before, or start a run on other samples"
            ) from error
        if relation != RELATION:
            raise RunError(f"a saved privacy ledger counts by {relation!r}, this version by {RELATION!r}")
        ledger = Ledger()
        for row in rows:
            ledger = ledger + row
        return ledger


def check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise UserError(f"delta = {delta}: it is a probability above 0 and below 1, far below one over the samples")
