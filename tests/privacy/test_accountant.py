"""Epsilons against routes of their own: closed forms, integrals of densities, and another kind of accountant."""

import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import log_ndtr

from fedbraid.errors import RunError, StoppedRun, UserError
from fedbraid.privacy import Budget, Ledger, Release, admit, epsilon, noise_multiplier

dp_accounting = pytest.importorskip("dp_accounting")
DELTA = 1e-5


def spent(*releases: Release) -> Ledger:
    ledger = Ledger()
    for release in releases:
        ledger = ledger + release
    return ledger


def closed_form(sigma: float, delta: float) -> float:
    """The exact epsilon of one Gaussian release (Balle and Wang, ICML 2018, theorem 8)."""

    def excess(eps: float) -> float:
        first = log_ndtr(0.5 / sigma - eps * sigma)
        second = eps + log_ndtr(-0.5 / sigma - eps * sigma)
        return first + np.log1p(-np.exp(second - first)) - math.log(delta)

    most = 0.5 / sigma**2 + math.sqrt(-2 * math.log(delta)) / sigma
    return brentq(excess, 1e-12, most, xtol=1e-13) if excess(1e-12) > 0 else 0.0


def integrated(sigma: float, rate: float, steps: int, delta: float) -> float:
    """The epsilon of one or two steps on Poisson samples, by integrating densities over a grid of outputs."""
    x, width = np.linspace(-9 * sigma, 1 + 9 * sigma, 40_001 if steps == 1 else 1_501, retstep=True)

    def density(mean: float) -> np.ndarray:
        return np.exp(-0.5 * ((x - mean) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi)) * width

    without, with_it = density(0.0), (1 - rate) * density(0.0) + rate * density(1.0)
    if steps == 2:
        without, with_it = np.outer(without, without), np.outer(with_it, with_it)

    def excess(eps: float) -> float:
        removed = np.maximum(with_it - math.exp(eps) * without, 0).sum()
        added = np.maximum(without - math.exp(eps) * with_it, 0).sum()
        return max(removed, added) - delta

    return brentq(excess, 0, 50, xtol=1e-9)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 4.0, 50.0, 2000.0])
def test_one_release_is_the_closed_form(sigma: float, delta: float) -> None:
    exact = closed_form(sigma, delta)
    found = epsilon(spent(Release(sigma)), delta)
    assert exact * (1 - 1e-6) - 1e-9 <= found <= exact * (1 + 1e-4) + 1e-9


@pytest.mark.parametrize("times", [2, 10, 1000])
def test_plain_releases_are_one_of_less_noise(times: int) -> None:
    found = epsilon(spent(Release(8.0, times)), DELTA)
    assert found == pytest.approx(closed_form(8.0 / math.sqrt(times), DELTA), rel=1e-4)


def test_plain_releases_of_different_noise() -> None:
    found = epsilon(spent(Release(2.0, 3), Release(5.0), Release(1.5)), DELTA)
    assert found == pytest.approx(closed_form((3 / 4 + 1 / 25 + 1 / 2.25) ** -0.5, DELTA), rel=1e-4)


@pytest.mark.parametrize("sigma", [0.7, 1.0, 3.0])
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_one_sampled_step_is_its_integral(sigma: float, rate: float) -> None:
    exact = integrated(sigma, rate, 1, DELTA)
    found = epsilon(spent(Release(sigma, 1, rate)), DELTA)
    assert exact * (1 - 1e-4) - 1e-6 <= found <= exact * (1 + 2e-3)


@pytest.mark.parametrize(("sigma", "rate"), [(0.8, 0.1), (2.0, 0.3)])
def test_two_sampled_steps_are_their_double_integral(sigma: float, rate: float) -> None:
    exact = integrated(sigma, rate, 2, DELTA)
    found = epsilon(spent(Release(sigma, 2, rate)), DELTA)
    assert exact * (1 - 1e-3) <= found <= exact * (1 + 3e-3)


@pytest.mark.parametrize(("sigma", "times", "rate"), [(1.0, 1000, 0.01), (0.8, 100, 0.02), (3.0, 500, 0.1)])
def test_many_sampled_steps_lie_below_renyi_and_above_less(sigma: float, times: int, rate: float) -> None:
    renyi = dp_accounting.rdp.RdpAccountant()
    renyi.compose(dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma)), times)
    found = epsilon(spent(Release(sigma, times, rate)), DELTA)
    above = renyi.get_epsilon(DELTA)
    assert 0.75 * above < found < above
    assert found > integrated(sigma, rate, 1, DELTA)


def test_a_rate_near_one_is_no_sampling() -> None:
    plain, sampled = epsilon(spent(Release(2.0, 3)), DELTA), epsilon(spent(Release(2.0, 3, 1 - 1e-9)), DELTA)
    assert sampled == pytest.approx(plain, rel=1e-3)


releases = st.builds(
    Release,
    sigma=st.floats(0.5, 20),
    times=st.integers(1, 50),
    rate=st.one_of(st.just(1.0), st.floats(0.02, 0.9)),
)


@settings(max_examples=15)
@given(releases, releases, st.floats(1.01, 3))
def test_epsilon_grows_with_releases_and_falls_with_noise_and_delta(
    one: Release, other: Release, factor: float
) -> None:
    found = epsilon(spent(one), DELTA)
    slack = 1 + 2e-3  # of discretisation
    assert found <= epsilon(spent(one, other), DELTA) * slack
    assert epsilon(spent(Release(one.sigma * factor, one.times, one.rate)), DELTA) <= found * slack
    assert epsilon(spent(one), DELTA * factor) <= found * slack
    assert epsilon(spent(Release(one.sigma, one.times, one.rate / factor)), DELTA) <= found * slack


def test_nothing_costs_nothing_and_no_noise_everything() -> None:
    assert epsilon(Ledger(), DELTA) == 0
    for ledger in (spent(Release(0.0)), spent(Release(0.0, 1, 0.5)), spent(Release(1.0), Release(1e-3))):
        assert epsilon(ledger, DELTA) == math.inf
    assert epsilon(spent(Release(0.5, 1000)), DELTA) == math.inf


@pytest.mark.parametrize("release", [Release(4.0, 2), Release(1.0, 50, 0.02)])
def test_a_release_is_admitted_up_to_the_edge(release: Release) -> None:
    before = spent(Release(5.0, 3))
    edge = epsilon(before + release, DELTA)
    assert admit(before, release, Budget(edge, DELTA)) == before + release
    below = Budget(math.nextafter(edge, 0), DELTA)
    with pytest.raises(StoppedRun) as stopped:
        admit(before, release, below)
    for number in (edge, epsilon(before, DELTA), below.epsilon):
        assert f"{number:.6g}" in str(stopped.value)


@pytest.mark.parametrize("delta", [1e-5, 1e-8])
@pytest.mark.parametrize("allowed", [0.1, 1.0, 8.0])
def test_the_noise_of_a_plain_plan_is_the_closed_form(allowed: float, delta: float) -> None:
    sigma = noise_multiplier(Budget(allowed, delta), [Release(1.0, 4)]) / 2
    exact = brentq(lambda s: closed_form(s, delta) - allowed, 0.05, 1000)
    assert exact * (1 - 1e-6) <= sigma <= exact * (1 + 1.2e-3)


def test_the_noise_of_a_mixed_plan_is_the_least_within_the_budget() -> None:
    budget = Budget(2.0, DELTA)
    plan = [Release(4.0, 2), Release(1.0, 20, 0.1)]
    factor = noise_multiplier(budget, plan, tolerance=0.01)

    def cost(scale: float) -> float:
        return epsilon(spent(*(Release(one.sigma * scale, one.times, one.rate) for one in plan)), DELTA)

    assert cost(factor * 0.98) > budget.epsilon >= cost(factor)


@given(st.lists(releases, max_size=5))
def test_a_ledger_survives_json(made: list[Release]) -> None:
    ledger = spent(*made)
    assert Ledger.from_data(json.loads(json.dumps(ledger.data()))) == ledger
    assert spent(*reversed(made)) == ledger
    assert sum(one.times for one in ledger.releases) == sum(one.times for one in made)


@pytest.mark.parametrize(
    "damage",
    [
        {"releases": []},
        {"relation": "replace one", "releases": []},
        {"relation": "add or remove one sample", "releases": [{"sigma": -1.0}]},
        {"relation": "add or remove one sample", "releases": [{"noise": 1.0}]},
        {"relation": "add or remove one sample", "releases": [{"sigma": "1"}]},
    ],
)
def test_a_damaged_ledger_is_refused(damage: dict) -> None:
    with pytest.raises(RunError, match="saved privacy ledger"):
        Ledger.from_data(damage)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Budget(0.0, DELTA), "epsilon = 0"),
        (lambda: Budget(math.inf, DELTA), "epsilon = inf"),
        (lambda: Budget(1.0, 1.0), "delta = 1"),
        (lambda: Release(math.nan), "sigma = nan"),
        (lambda: Release(1.0, 0), "times = 0"),
        (lambda: Release(1.0, 1, 0.0), "rate = 0"),
        (lambda: Release(1.0, 1, 1.1), "rate = 1.1"),
        (lambda: epsilon(Ledger(), 0.0), "delta = 0"),
        (lambda: noise_multiplier(Budget(1.0, DELTA), []), "at least one release"),
        (lambda: noise_multiplier(Budget(1.0, DELTA), [Release(0.0)]), "at least one release"),
    ],
)
def test_what_makes_no_sense_is_refused(make, told: str) -> None:
    with pytest.raises(UserError, match=told):
        make()


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(UserError, match=r"pip install 'fedbraid\[privacy\]'"):
        epsilon(spent(Release(1.0)), DELTA)
