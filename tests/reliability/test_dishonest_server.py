"""A slice of what a dishonest server may try (`benchmarks/dishonest_server.py` has all of it), and that it is a test.

An attack that could not succeed would show nothing, so some are made against sites that were weakened for it.
"""

import pytest

pytest.importorskip("flwr", reason="the extra 'flower' is not installed")
pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")
pytest.importorskip("dp_accounting", reason="an epsilon needs the extra 'privacy'")

import dishonest_sites
from dishonest_server import ATTACKS, judged
from dishonest_sites import World

from fedbraid.deployment import handshake
from fedbraid.privacy import guard
from fedbraid.runtimes import opened_sums

QUICK = (
    "the column of patients is the label",
    "every other key of the configuration, one by one",
    "brackets without end",
    "names that look like one of the list",
    "a file as method",
    "tasks that the run does not have, to choose the classes of an update",
    "a question of the phase evaluate in a run that does not count at the sites",
    "sums by class of afl, of a class of which the site has one sample",
    "a column that is missing",
    "a delta of 0.999999999",
    "a delta of one over a part of the samples, at a site that names none",
    "the same samples, the order of classes exchanged",
    "a cohort with one site twice",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def learned(world: World, what: str) -> str:
    [attack] = [attack for attack in ATTACKS if attack.what == what]
    return judged(attack, world).learned


def test_attacks_are_told_apart_by_their_words() -> None:
    assert len({(attack.kind, attack.what) for attack in ATTACKS}) == len(ATTACKS) >= 150


@pytest.mark.parametrize("what", QUICK)
def test_a_dishonest_server_learns_nothing(what: str, world: World) -> None:
    assert learned(world, what) == ""


def test_the_same_attacks_succeed_at_weaker_sites(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "_check_keys", lambda _config: None)
    monkeypatch.setattr(guard, "_smallest", lambda _found, samples, _rarest: ("a message", samples))
    monkeypatch.setattr(opened_sums, "_same_samples", lambda _one, _other: False)
    monkeypatch.setattr(
        dishonest_sites, "coded", lambda code, _needed: {"code": code, "reason": dishonest_sites.COLUMN}
    )
    assert "the site took the greeting" in learned(world, "the column of patients is the label")
    assert "fit/product/0" in learned(world, "sums by class of afl, of a class of which the site has one sample")
    assert "a second sum without west" in learned(world, "the same samples, the order of classes exchanged")
    assert f"spilled: {dishonest_sites.COLUMN}" in learned(world, "a column that is missing")
