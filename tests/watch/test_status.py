"""The picture of a run from its folder: in every state a folder can be in, and whatever is written in it."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fedbraid.errors import UserError
from fedbraid.watch.picture import Status
from fedbraid.watch.status import Watch, watching

THREE = ["1", "2", "10"]


def _look(folder) -> Status:
    return Watch(folder.path).look(folder.now)


def _clients(status: Status) -> dict[str, str]:
    return {client.id: client.state for client in status.clients}


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        watching(tmp_path)


def test_a_run_that_has_not_begun(folder) -> None:
    status = _look(folder)
    assert (status.state, status.round, status.clients, status.sign) == ("not begun", None, (), None)
    assert status.advice == f"fedbraid resume {folder.path}"
    assert (status.about.method, status.about.data) == ("lorm", "digits")
    folder.summarise(THREE)
    assert _clients(_look(folder)) == {"1": "apart", "2": "apart", "10": "apart"}


def test_a_run_in_the_middle(folder) -> None:
    folder.summarise([*THREE, "11"])
    folder.finish(["1", "2", "10"], 0.5, failed={"11": "lost"}, refused={})
    folder.ask([*THREE, "11"], task=1, index=2, deadline=60.0, needed=2)
    folder.wait(4)
    folder.say("received", client="10", bytes=1200)
    folder.say("idle", client="2")
    folder.say("refused", client="11", reason="refused client 11: fc1: not finite: nan (allowed: finite)")
    folder.wait(6)
    status = _look(folder)
    assert status.state == "running"
    assert (status.progress.done, status.progress.rounds, status.progress.task) == (1, 10, 1)
    assert status.progress.left == 8 * 5.0  # rounds at what the finished one took, this one as good as done
    now = status.round
    assert now is not None
    assert (now.phase, now.index, now.seconds, now.deadline, now.needed, now.over) == ("train", 2, 10.0, 60.0, 2, False)
    assert now.counts == {"sent": 1, "idle": 1, "awaited": 1, "missing": 0, "failed": 0, "refused": 1}
    assert _clients(status) == {"1": "awaited", "2": "idle", "10": "sent", "11": "refused"}
    one, ten, eleven = status.clients[0], status.clients[2], status.clients[3]
    assert (ten.bytes, ten.seconds, ten.seen, ten.rounds, ten.up, ten.samples) == (1200, 4.0, 6.0, 1, 1000, 30)
    assert (one.seen, one.history, eleven.history, eleven.failed) == (None, "s", "f", 1)
    assert eleven.reason == "fc1: not finite: nan (allowed: finite)"
    assert (status.up, status.down, status.failed, status.refused) == (3000, 1500, 1, 0)
    assert [(score.name, score.last, score.best) for score in status.scores] == [("accuracy", 0.5, 0.5)]


def test_a_killed_run_is_silent_and_says_for_how_long(folder) -> None:
    for index in range(3):
        folder.ask(THREE, index=index)
        folder.wait(30)
        folder.merge(THREE)
    folder.ask(THREE, index=3)
    folder.wait(80)
    assert _look(folder).state == "running"
    folder.wait(3600)
    status = _look(folder)
    assert status.state == "silent"
    assert "no sign for 61 min 20 s" in status.why
    assert "longest wait in the last rounds was 30.0 s" in status.why
    assert status.advice.startswith("fedbraid resume")
    assert status.sign == 3680
    assert status.progress.left is None


def test_a_first_round_and_one_before_its_deadline_may_take_their_time(folder) -> None:
    folder.ask(THREE)
    folder.wait(500)
    assert _look(folder).state == "running"
    folder.wait(200)
    assert _look(folder).state == "silent"
    folder.ask(THREE, deadline=7200.0)
    folder.wait(7000)
    assert _look(folder).state == "running"


def test_a_night_between_two_sessions_is_no_usual_wait(folder) -> None:
    for index in range(4):
        folder.ask(THREE, index=index)
        folder.wait(2)
        folder.merge(THREE)
        folder.wait(36000 if index == 1 else 1)
    folder.ask(THREE, index=4)
    folder.wait(100)
    assert _look(folder).state == "silent"


def test_a_paused_run_says_why_and_goes_on_when_it_is_resumed(folder) -> None:
    folder.ask(THREE, needed=2)
    folder.say("received", client="1", bytes=10)
    folder.wait(5)
    folder.say("paused", round="", answered=1, needed=2)
    folder.wait(9999)
    status = _look(folder)
    assert (status.state, status.why) == ("paused", "1 of 3 clients answered, 2 are needed")
    assert status.round
    assert status.round.over
    assert status.round.seconds == 5
    assert _clients(status) == {"1": "sent", "2": "missing", "10": "missing"}
    assert status.troubles[0].what == "paused"
    folder.ask(THREE)
    assert _look(folder).state == "running"


def test_a_finished_run(folder) -> None:
    folder.summarise(THREE, rounds=1)
    folder.ask(THREE)
    folder.merge(THREE)
    folder.finish(THREE, 0.75)
    (folder.path / "results.json").write_text(json.dumps({"finished": True, "faa": 0.75, "aia": math.nan}))
    folder.wait(1e6)
    status = _look(folder)
    assert (status.state, status.why, status.results) == ("finished", "", {"faa": 0.75})
    assert status.advice == f"fedbraid report {folder.path}"


def test_a_folder_that_goes_away_and_comes_back(folder) -> None:
    folder.ask(THREE)
    watch = Watch(folder.path)
    assert watch.look(folder.now).state == "running"
    config = folder.path / "config.toml"
    content = config.read_bytes()
    config.unlink()
    assert watch.look(folder.now).state == "gone"
    config.write_bytes(content)
    (folder.path / "activity.jsonl").unlink()
    folder.ask(["7"], index=5)
    status = watch.look(folder.now)
    assert (status.state, _clients(status)) == ("running", {"7": "awaited"})


def test_a_run_without_a_log_is_told_by_its_rounds(folder) -> None:
    folder.summarise(THREE)
    folder.finish(THREE, 0.5)
    status = Watch(folder.path).look()
    assert (status.state, status.round, status.progress.done) == ("running", None, 1)
    assert status.sign is not None


def test_a_line_that_is_being_written_is_waited_for(folder) -> None:
    folder.ask(THREE)
    log = folder.path / "activity.jsonl"
    line = json.dumps({"at": folder.now.isoformat(), "what": "received", "client": "1", "bytes": 5}) + "\n"
    watch = Watch(folder.path)
    for part in (line[:40], line[40:]):
        assert _clients(watch.look(folder.now))["1"] == "awaited"
        with log.open("a") as file:
            file.write(part)
    assert _clients(watch.look(folder.now))["1"] == "sent"


def test_a_line_cut_off_by_a_kill_does_not_take_its_successor_along(folder) -> None:
    folder.ask(THREE)
    with (folder.path / "activity.jsonl").open("a") as log:
        log.write('{"at": "2026-01-31T12:00:00.000+00:00", "what": "rou')
    folder.ask(["1"], index=4)
    status = _look(folder)
    assert status.round
    assert (status.round.index, status.round.asked) == (4, 1)


def test_rounds_that_a_resume_has_cut_off_are_not_counted_twice(folder) -> None:
    folder.summarise(THREE)
    for _ in range(5):
        folder.finish(THREE, 0.5)
    watch = Watch(folder.path)
    assert watch.look(folder.now).progress.done == 5
    events = folder.path / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    events.write_text("".join(lines[:3]))
    assert watch.look(folder.now).progress.done == 3
    folder.done = 3
    for _ in range(4):  # cut back and grown again between two looks
        folder.finish(THREE, 0.75, seconds=40000.0)
    watch = Watch(folder.path)
    watch.look(folder.now)
    content = events.read_text()
    events.write_text("".join(lines[:3]))
    folder.done = 3
    for _ in range(9):
        folder.finish(THREE, 0.9)
    assert len(events.read_text()) > len(content)
    status = watch.look(folder.now)
    assert (status.progress.done, status.up) == (12, 36000)
    assert watch.look(folder.now) == status


def test_a_damaged_line_costs_that_round_alone(folder) -> None:
    folder.finish(THREE)
    with (folder.path / "events.jsonl").open("a") as file:
        file.write("{ no record\n")
    folder.done += 1
    folder.finish(THREE)
    watch = Watch(folder.path)
    for _ in range(2):
        status = watch.look(folder.now)
        assert (status.progress.done, status.up) == (3, 6000)


def test_a_client_that_is_asked_again_is_awaited_again(folder) -> None:
    folder.ask(THREE)
    folder.wait(10)
    folder.say("failed", client="2", reason="connection lost")
    assert _clients(_look(folder))["2"] == "failed"
    folder.say("again", clients=["2"])
    status = _look(folder)
    assert _clients(status)["2"] == "awaited"
    assert [one.what for one in status.troubles] == ["again", "failed"]
    folder.wait(3)
    folder.say("received", client="2", bytes=7)
    assert {client.id: client.seconds for client in _look(folder).clients}["2"] == 3.0


def test_who_has_not_answered_when_the_round_ends_is_missing(folder) -> None:
    folder.ask(THREE)
    folder.say("received", client="1", bytes=7)
    folder.merge(["1"])
    status = _look(folder)
    assert _clients(status) == {"1": "sent", "2": "missing", "10": "missing"}
    assert status.troubles[0].text == "the round ended without 2 of 3 clients: 2, 10"


def test_an_evaluation_leaves_the_clients_as_they_were(folder) -> None:
    folder.ask(THREE)
    folder.say("received", client="1", bytes=7)
    folder.merge(["1"])
    folder.ask(["test"], phase="evaluate")
    status = _look(folder)
    assert status.round
    assert status.training
    assert (status.round.phase, status.training.phase) == ("evaluate", "train")
    assert _clients(status) == {"1": "sent", "2": "missing", "10": "missing"}


def test_strangers_cannot_push_the_troubles_of_others_out(folder) -> None:
    folder.ask(THREE)
    folder.say("refused", client="1", reason="refused client 1: bad")
    for number in range(500):
        folder.say("ignored", client=f"made up {number}", reason="it was not asked")
        folder.say("received", client=f"made up {number}", bytes=1)
    status = _look(folder)
    assert [(one.what, one.client, one.times) for one in status.troubles] == [("ignored", "", 500), ("refused", "1", 1)]
    assert len(status.clients) == 3
    assert status.ignored == 500


def test_the_largest_epsilon_is_told(folder) -> None:
    assert _look(folder).privacy is None
    for epsilon in (1.5, 2.5, 2.0):
        folder.say("privacy", epsilon=epsilon, delta=1e-5)
    privacy = _look(folder).privacy
    assert privacy
    assert (privacy.epsilon, privacy.delta) == (2.5, 1e-5)
    folder.say("privacy", epsilon=math.inf, delta=1e-5)
    privacy = _look(folder).privacy
    assert privacy
    assert privacy.epsilon is None


HOSTILE = "<script>alert(1)</script>\x1b[2J\u202egnp.exe\x00\ud800\n" + "x" * 100_000


def test_names_and_reasons_are_one_short_line_of_visible_characters(folder) -> None:
    folder.ask([HOSTILE])
    folder.say("failed", client=HOSTILE, reason=HOSTILE)
    status = _look(folder)
    for text in (status.clients[0].id, status.clients[0].reason, status.troubles[0].client, status.troubles[0].text):
        assert text.isprintable()
        assert text.startswith(r"<script>alert(1)</script>\x1b[2J\u202egnp.exe")
        assert len(text) <= 400
        text.encode()


STRANGE: list[Any] = [None, True, -1, 1e400, "", "a", [], [1, None], {}, {"a": [1]}, 10**30]


@pytest.mark.parametrize("value", STRANGE)
def test_strange_values_do_no_harm(folder, value: Any) -> None:
    folder.summarise(THREE)
    folder.ask(THREE)
    for what in ("round", "received", "idle", "failed", "refused", "ignored", "again", "merged", "paused", "privacy"):
        keys = ("round", "cohort", "deadline", "needed", "client", "clients", "bytes", "reason", "epsilon", "delta")
        folder.say(what, **dict.fromkeys(keys, value), answered=value)
    folder.say("round", round=json.dumps({"task": value, "index": value, "phase": value}), cohort=value)
    for keys in (("reported",), ("failed", "bytes_up"), ("correct", "total"), ("scores",), ("task",), ("seconds",)):
        folder.finish(THREE, **dict.fromkeys(keys, value))
    with (folder.path / "activity.jsonl").open("a") as log:
        log.write(f'{json.dumps(value)}\n{{"at": {json.dumps(value)}, "what": {json.dumps(value)}}}\n\n')
    for name in ("summary.json", "results.json"):
        (folder.path / name).write_text(json.dumps(value))
    json.dumps(_look(folder).data(), allow_nan=False)
    (folder.path / "summary.json").write_text(json.dumps({"partition": {"samples": {"1": value}}, "rounds": value}))
    json.dumps(_look(folder).data(), allow_nan=False)


def test_the_shape_of_the_data_is_this(folder) -> None:
    folder.summarise(THREE)
    folder.finish(THREE, 0.5)
    folder.ask(THREE)
    folder.say("failed", client="1", reason="lost")
    folder.say("privacy", epsilon=1.0, delta=1e-5)
    data = _look(folder).data()
    keys = {
        "": "format run state why advice now sign read about progress round training clients scores curve starts "
        "up down failed refused ignored troubles privacy results",
        "about": "method data backbone partition seed clients tasks",
        "progress": "done rounds task tasks spent left",
        "round": "task phase index at seconds deadline needed asked counts over",
        "counts": "sent idle awaited missing failed refused",
        "client": "id state reason bytes seconds seen samples rounds idle failed refused up down history",
        "score": "name heading last best unit",
        "trouble": "at ago what client text times",
        "privacy": "epsilon delta",
    }
    parts = {"": data, **data, "counts": data["round"]["counts"]}
    parts |= {"client": data["clients"][0], "score": data["scores"][0], "trouble": data["troubles"][0]}
    assert {part: " ".join(parts[part]) for part in keys} == keys
    assert (data["format"], data["curve"], data["starts"]) == (1, ((1, 0.5),), ((0, 1),))


def test_times_without_a_zone_and_clocks_that_are_set_back(folder) -> None:
    folder.now = folder.now.replace(tzinfo=None)
    folder.ask(THREE)
    folder.wait(-50)
    folder.say("received", client="1", bytes=1)
    now = folder.now.astimezone() - timedelta(days=2)
    status = Watch(folder.path).look(now)
    assert status.sign == 0
    assert status.clients[0].seconds == 0
