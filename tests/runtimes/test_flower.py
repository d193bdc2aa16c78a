"""Flower's simulation: the same bits and bytes as in process; what goes wrong comes back as errors."""

from __future__ import annotations

from pathlib import Path

import digit_runs
import pytest
from digit_runs import EQUAL

pytest.importorskip("flwr", reason="the extra 'flower' is not installed")
pytest.importorskip("ray", reason="the extra 'flower' is not installed")

from fedbraid import config, runs
from fedbraid.errors import StoppedRun

SMALL = [*digit_runs.SMALL, "partition.clients=3"]


def test_the_simulation_is_the_run_in_process_also_where_it_is_resumed(tmp_path: Path) -> None:
    for _ in runs.start(config.read("", SMALL), tmp_path / "here").events():
        pass
    begun = runs.start(config.read("", [*SMALL, "run.runtime=flower", "run.at_once=2"]), tmp_path / "there")
    events = begun.events()
    for _ in range(3):
        next(events)
    events.close()
    for _ in runs.resume(tmp_path / "there").events():
        pass
    here, there = (runs.read_results(tmp_path / name) for name in ("here", "there"))
    assert {key: here[key] for key in EQUAL} == {key: there[key] for key in EQUAL}


def test_the_simulation_of_a_masked_run_has_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")
    masked = [*SMALL, "secure.masked=true", "stream.tasks=1", "training.rounds=1"]
    for name, where in (("here", []), ("there", ["run.runtime=flower", "run.at_once=2"])):
        for _ in runs.start(config.read("", [*masked, *where]), tmp_path / name).events():
            pass
    here, there = (runs.read_results(tmp_path / name) for name in ("here", "there"))
    assert {key: here[key] for key in EQUAL} == {key: there[key] for key in EQUAL}


def test_a_client_that_fails_is_named_and_costs_itself_the_round(tmp_path: Path) -> None:
    begun = runs.start(config.read("", [*SMALL, "run.runtime=flower"]), tmp_path / "run")
    (tmp_path / "run" / "clients").mkdir()
    (tmp_path / "run" / "clients" / "0").write_text("a file where its folder should be")
    reason = r"2 of 3 clients answered, 3 are needed \(client 0: cannot write .*File exists"
    with pytest.raises(StoppedRun, match=reason):
        for _ in begun.events():
            pass
