"""What keeps a wanted run going: begun once, left alone while it is computed, begun again later and later."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("flwr", reason="the extra 'flower' is not installed")
pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")

from small_federations import federation

from fedbraid.deployment import directing
from fedbraid.deployment.directing import ALIKE, CALM, LONGEST, LOOK, Director
from fedbraid.deployment.federation import Federation
from fedbraid.deployment.notes import (
    FINISHED,
    PAUSED,
    REFUSED,
    Wanted,
    end_with,
    ended,
    read_note,
    want,
    wanted,
)
from fedbraid.deployment.supervising import note_running


class Flower:
    """Flower's commands: runs get numbers, and have the status that is said."""

    def __init__(self) -> None:
        self.status, self.started, self.asked = "running", 0, 0
        self.known = {"north": 1, "left": 2}

    def nodes(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(id=number, name=name, online=True) for name, number in self.known.items()]

    def register(self, site: str) -> None:
        self.known[site] = 9

    def unregister(self, node: int) -> None:
        self.known = {name: number for name, number in self.known.items() if number != node}

    def start(self) -> int:
        self.started += 1
        return self.started

    def run(self, number: int) -> tuple[str, str]:
        assert number == self.started
        self.asked += 1
        return self.status, "it died"


class Clock:
    """A director that looks whenever it is due, on a clock that is set by hand."""

    def __init__(self, made: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.flower, self.made = 1000.0, Flower(), made
        self.director = Director(made)
        monkeypatch.setattr(directing, "Control", lambda _federation: self.flower)
        monkeypatch.setattr(directing, "answers", lambda _port: True)
        monkeypatch.setattr(directing, "time", SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now))

    def passes(self, seconds: float) -> None:
        """So much time, a step every half second."""
        for _ in range(int(2 * seconds)):
            self.now += 0.5
            self.director.step(self.now)
            looking = self.director._looking
            if looking:
                looking.join()


@pytest.fixture
def clock(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(federation(tmp_path / "fed", data), monkeypatch)


def test_sites_of_the_terms_are_let_in_and_no_others(clock: Clock) -> None:
    clock.passes(2 * LOOK)
    assert clock.flower.known == {"north": 1, "south": 9}
    assert clock.flower.started == 0


def test_a_run_that_is_computed_is_left_alone(clock: Clock) -> None:
    want(clock.made.folder, Wanted(True))
    clock.passes(2 * LOOK)
    assert wanted(clock.made.folder) == Wanted(True, 1)
    note_running(clock.made.computing, {"app": os.getpid()})
    asked = clock.flower.asked
    clock.passes(120)
    assert clock.flower.started == 1
    assert 0 < clock.flower.asked - asked < 6
    note_running(clock.made.computing, {"app": 2**22 + 1})  # nobody's number
    asked = clock.flower.asked
    clock.passes(30)
    assert clock.flower.asked - asked > 8


def test_a_run_that_ends_alike_each_time_where_waiting_does_not_help_is_given_up(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, start = clock.made.folder, clock.flower.start

    def failing() -> int:
        number = start()
        end_with(folder, PAUSED, "client south: its site.toml does not allow it", again=False)
        return number

    monkeypatch.setattr(clock.flower, "start", failing)
    monkeypatch.setattr(Path, "unlink", lambda *_args, **_options: None)  # the end comes before it is looked for
    clock.flower.status = "finished:failed"
    want(folder, Wanted(True))
    clock.passes(10 * LONGEST)
    assert clock.flower.started == ALIKE
    assert not wanted(folder).go_on
    last = ended(folder)
    assert last["outcome"] == PAUSED
    assert "does not allow it; given up after 3 attempts that ended alike" in last["reason"]
    assert "given up" in capsys.readouterr().out
    want(folder, Wanted(True))  # as 'deploy run' says
    clock.passes(2 * LOOK)
    assert clock.flower.started == ALIKE + 1


def test_who_was_there_is_written_down_when_somebody_asks(clock: Clock) -> None:
    clock.passes(2 * LOOK)
    first = read_note(clock.made.seen)
    assert first["online"] == {"north": True, "south": True}
    clock.flower.known = {"north": 1}
    clock.passes(2 * CALM)
    assert read_note(clock.made.seen) == first, "nobody asked"
    clock.made.asked.touch()
    os.utime(clock.made.asked, (clock.now, clock.now))
    clock.passes(2 * LOOK)
    assert read_note(clock.made.seen)["online"] == {"north": True}


@pytest.mark.parametrize("outcome", [FINISHED, REFUSED])
def test_a_run_with_nothing_left_to_do_is_not_begun_again(clock: Clock, outcome: str) -> None:
    want(clock.made.folder, Wanted(True))
    clock.passes(2 * LOOK)
    end_with(clock.made.folder, outcome, "")
    clock.flower.status = "finished:completed"
    clock.passes(2 * LONGEST)
    assert (wanted(clock.made.folder), clock.flower.started) == (Wanted(False, 1), 1)


def test_a_run_that_dies_is_begun_again_later_and_later_unless_it_got_on(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    want(clock.made.folder, Wanted(True))
    clock.flower.status = "finished:failed"
    clock.passes(2 * LOOK)
    clock.passes(5 * LONGEST)
    assert 5 < clock.flower.started < 10
    assert "it died; trying again in 60 s" in capsys.readouterr().out
    state = clock.made.run / "state" / "000001.json"
    state.parent.mkdir(parents=True)
    state.write_text("{}")
    clock.passes(LONGEST)
    assert "it died; trying again in 3 s" in capsys.readouterr().out
