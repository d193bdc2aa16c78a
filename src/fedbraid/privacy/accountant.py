"""What releases cost: epsilon from privacy loss distributions, and the noise that keeps a plan within a budget.

Koskela, Jälkö and Honkela, Computing Tight Differential Privacy Guarantees Using FFT, AISTATS 2020; Doroshenko et al.,
Connect the Dots: Tighter Discrete Approximations of Privacy Loss Distributions, PETS 2022. The accountant is that of
the package dp-accounting. With P, Q the distributions of all releases on two neighbouring data sets,

    delta(epsilon) = max over both orders of  E_P [ max(0, 1 - e^(epsilon - L)) ],      L = log dP/dQ

where L of a sequence is the sum of the losses of its parts: their densities are convolved. Every approximation here is
towards a larger epsilon, so each number is a guarantee. For plain Gaussians it is within 0.01 % of the closed form; so
it is of a five times finer count of losses at sampling rates from 0.01 on. It is 0.3 % too large at a rate of 0.001,
and more below.

k plain releases with multipliers sigma_j are one with `1 / sigma^2 = sum 1 / sigma_j^2`. Composition is adaptive (a
release may depend on what was released before) where the plan of sigmas, rates and stops does not depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from fedbraid.errors import StoppedRun, UserError
from fedbraid.privacy.ledger import Budget, Ledger, Release, check_delta

LEAST_SIGMA = 0.02
"""With less noise epsilon is above 1000 and e^epsilon above fp64: it protects nobody and is told as infinite."""
LARGEST_EPSILON = 500.0
"""What is larger is told as infinite, for the same reason."""
FINENESS = 0.02
"""The step in which losses are counted, as a share of a loss's spread; the error of epsilon falls with its square."""
POINTS = 100_000
"""The most steps over which the loss of one release is spread: bounds time and memory, and costs tightness only."""


def epsilon(ledger: Ledger, delta: float) -> float:
    """The epsilon of everything in the ledger at this delta: an upper bound, infinite where noise is as good as none.

    It grows with every release, every sampling rate, less noise and a smaller delta, up to the error of the count.
    """
    check_delta(delta)
    _import_accounting()
    return _epsilon(ledger, delta)


@lru_cache(maxsize=256)
def _epsilon(ledger: Ledger, delta: float) -> float:
    """Clients that did the same have the same ledger, which is counted once."""
    accounting = _import_accounting()
    parts = _parts(ledger)
    if not parts:
        return 0.0
    if min(part.sigma for part in parts) < LEAST_SIGMA:
        return math.inf
    accountant = accounting.pld.PLDAccountant(
        accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=_step(parts)
    )
    for part in parts:
        gaussian = accounting.GaussianDpEvent(part.sigma)
        event = gaussian if part.rate == 1 else accounting.PoissonSampledDpEvent(part.rate, gaussian)
        accountant.compose(event, part.times)
    found = float(accountant.get_epsilon(delta))
    return found if found <= LARGEST_EPSILON else math.inf


def admit(ledger: Ledger, release: Release, budget: Budget) -> Ledger:
    """The ledger with this release; call it, and save the result, before the release is made.

    Raises `StoppedRun` where the release would exceed the budget.
    """
    after = ledger + release
    asked = epsilon(after, budget.delta)
    if asked > budget.epsilon:
        spent = epsilon(ledger, budget.delta)
        raise StoppedRun(
            f"the privacy budget is spent: with the next release (sigma {release.sigma:g}, {release.times} times, rate "
            f"{release.rate:g}) epsilon would be {asked:.6g} at delta {budget.delta:g}; {spent:.6g} is spent and "
            f"{budget.epsilon:.6g} is allowed. Nothing was released and the state is saved; a plan of fewer releases "
            "or more noise must be made before a run, from noise_multiplier"
        )
    return after


def noise_multiplier(budget: Budget, planned: Iterable[Release], *, tolerance: float = 1e-3) -> float:
    """The smallest factor by which the sigmas of all planned releases must be multiplied to stay within the budget.

    With `sigma` 1 in every release it is their noise multiplier. It is found by bisection, up to the relative
    `tolerance` and always on the private side: the plan with this factor is within the budget.
    """
    plan = list(planned)
    if not plan or min(release.sigma for release in plan) == 0:
        raise UserError("noise can be planned for at least one release, each with a sigma above 0 (1 by default)")

    def fits(factor: float) -> bool:
        ledger = Ledger()
        for release in plan:
            ledger = ledger + Release(release.sigma * factor, release.times, release.rate)
        return epsilon(ledger, budget.delta) <= budget.epsilon

    high = _enough(budget, plan)
    while not fits(high):
        high *= 1.1  # a budget so tight that discretisation alone exceeds it
    low = high / 2
    while fits(low):
        low, high = low / 2, low
    while high - low > tolerance * high:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _enough(budget: Budget, plan: list[Release]) -> float:
    """A factor with which the plan is within the budget even if no release were on a sample of the data.

    A Gaussian of sensitivity mu has `epsilon <= mu^2 / 2 + mu sqrt(2 log(1 / delta))` (Bun and Steinke, Concentrated
    Differential Privacy, 2016).
    """
    tail = math.sqrt(2 * math.log(1 / budget.delta))
    mu = 2 * budget.epsilon / (math.sqrt(tail**2 + 2 * budget.epsilon) + tail)
    return math.sqrt(sum(release.times / release.sigma**2 for release in plan)) / mu


def _parts(ledger: Ledger) -> list[Release]:
    """The ledger with its plain releases as one; a release without noise keeps its sigma of 0."""
    plain = [release for release in ledger.releases if release.rate == 1]
    sampled = [release for release in ledger.releases if release.rate < 1]
    if not plain:
        return sampled
    if min(release.sigma for release in plain) == 0:
        return [Release(0.0), *sampled]
    return [Release(sum(release.times / release.sigma**2 for release in plain) ** -0.5), *sampled]


def _step(parts: list[Release]) -> float:
    """The step in which losses are counted: fine for the narrowest part, yet few enough steps for the widest."""
    spreads = [min(1 / part.sigma, part.rate * math.sqrt(math.expm1(min(part.sigma**-2, 700)))) for part in parts]
    ranges = [18 / part.sigma + 0.5 / part.sigma**2 for part in parts]
    return max(FINENESS * min(spreads), max(ranges) / POINTS)


def _import_accounting():
    try:
        import dp_accounting
    except ImportError as error:
        raise UserError(
            f"an epsilon needs an extra that is not installed: pip install 'fedbraid[privacy]' ({error})"
        ) from error
    return dp_accounting
