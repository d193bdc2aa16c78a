"""Run folders: what they hold, resume after any round, and what is refused."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil

import pytest
from digit_runs import EQUAL, finished, small

from fedbraid import checkpoint, config, runs
from fedbraid.errors import RunError, StoppedRun, UserError
from fedbraid.reports import records

FILES = {
    "config.toml",
    "environment.json",
    "partition.json",
    "summary.json",
    "events.jsonl",
    "activity.jsonl",
    "privacy.json",
    "results.json",
    "report.html",
    "state",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    finished(runs.start(small(), folder))
    return folder


def test_a_finished_run_holds_everything(whole):
    results = runs.read_results(whole)
    assert {path.name for path in whole.iterdir()} == FILES
    assert results["finished"]
    assert (results["method"], results["tasks"], results["clients"]) == ("lorm", 2, 2)
    assert results["task_classes"] == [["0", "1"], ["2", "3"]]
    assert [len(row) for row in results["accuracy_matrix"]] == [1, 2]
    assert results["peak_rss_bytes"] > 1e8
    events = records.read(whole / "events.jsonl")
    assert len(events) == results["rounds"] == 8
    assert results["bytes_up_per_client"] * 2 == sum(sum(event["bytes_up"].values()) for event in events)


def test_its_configuration_repeats_it(whole, tmp_path):
    again = finished(runs.start(config.read(str(whole / "config.toml")), tmp_path / "again"))
    before = runs.read_results(whole)
    assert {key: again[key] for key in EQUAL} == {key: before[key] for key in EQUAL}


def test_the_gate_changes_no_number(whole, tmp_path):
    without = finished(runs.start(small("gate.check=false"), tmp_path / "run"))
    before = runs.read_results(whole)
    assert {key: without[key] for key in EQUAL} == {key: before[key] for key in EQUAL}


@pytest.mark.parametrize("rounds", [0, 1, 4, 7])
def test_a_run_stopped_after_any_round_ends_with_equal_bits(whole, tmp_path, rounds):
    run = runs.start(small(), tmp_path / "run")
    for _ in itertools.islice(run.events(), rounds):
        pass
    with (tmp_path / "run" / "events.jsonl").open("ab") as log:
        log.write(b'{"event": 99, "half a rec')
    resumed = finished(runs.resume(tmp_path / "run"))
    before = runs.read_results(whole)
    assert {key: resumed[key] for key in EQUAL} == {key: before[key] for key in EQUAL}
    assert len(records.read(tmp_path / "run" / "events.jsonl")) == 8


def test_a_damaged_state_costs_one_round_only(whole, tmp_path):
    run = runs.start(small(), tmp_path / "run")
    for _ in itertools.islice(run.events(), 4):
        pass
    newest = max((tmp_path / "run" / "state").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-7])
    resumed = runs.resume(tmp_path / "run")
    assert resumed.start.done == 3
    assert finished(resumed)["state_sha256"] == runs.read_results(whole)["state_sha256"]


def test_a_flipped_bit_in_the_last_record_costs_one_round_only(whole, tmp_path):
    run = runs.start(small(), tmp_path / "run")
    for _ in itertools.islice(run.events(), 4):
        pass
    _flip(tmp_path / "run" / "events.jsonl", -10)
    resumed = runs.resume(tmp_path / "run")
    assert resumed.start.done == 3
    assert finished(resumed)["state_sha256"] == runs.read_results(whole)["state_sha256"]


def test_a_flipped_bit_in_an_earlier_record_is_named(tmp_path):
    run = runs.start(small(), tmp_path / "run")
    for _ in itertools.islice(run.events(), 4):
        pass
    _flip(tmp_path / "run" / "events.jsonl", 20)
    with pytest.raises(RunError, match=r"000004\.json: events\.jsonl does not begin with.*000003\.json.*restore"):
        runs.resume(tmp_path / "run")


@pytest.mark.parametrize("name", ["config.toml", "partition.json"])
def test_what_the_numbers_follow_from_is_not_taken_where_it_was_changed(whole, tmp_path, name):
    shutil.copytree(whole, tmp_path / "run")
    path = tmp_path / "run" / name
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(UserError, match=rf"{name} is not as environment\.json recorded it.*--force"):
        runs.resume(tmp_path / "run")
    assert runs.resume(tmp_path / "run", force=True).start.done == 8


def _flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_an_unfinished_run_has_a_report(tmp_path):
    run = runs.start(small(), tmp_path / "run")
    for _ in itertools.islice(run.events(), 2):
        pass
    assert not runs.read_results(run.folder)["finished"]
    assert "lorm" in runs.write_report(run.folder).read_text()


def test_a_damaged_log_is_named_by_line(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    log = tmp_path / "run" / "events.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"task":1', b'"task";1', 1))
    with pytest.raises(RunError, match=r"events\.jsonl, line 5 is damaged"):
        runs.write_report(tmp_path / "run")


@pytest.mark.parametrize("name", ["results.json", "summary.json", "environment.json"])
def test_a_damaged_file_is_named_and_written_anew(whole, tmp_path, name):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(b'{"finished": tr\xff')
    reads = {"results.json": runs.read_results, "summary.json": runs.read_summary, "environment.json": runs.resume}
    with pytest.raises(RunError, match=rf"{name} is damaged"):
        reads[name](tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    assert finished(runs.resume(tmp_path / "run"))["state_sha256"] == runs.read_results(whole)["state_sha256"]


def test_a_folder_that_holds_a_run_is_left_alone(whole):
    before = sorted(path.stat().st_mtime_ns for path in whole.rglob("*"))
    with pytest.raises(UserError, match="already holds a run: continue it with 'fedbraid resume"):
        runs.start(small(), whole)
    assert sorted(path.stat().st_mtime_ns for path in whole.rglob("*")) == before


def test_bad_settings_leave_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"stream\.tasks"):
        runs.start(small("stream.tasks=9"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_library_set_is_refused_unless_forced(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    path = tmp_path / "run" / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"torch": "1.0"}))
    with pytest.raises(UserError, match=r"another environment \(torch was 1\.0, is .*--force"):
        runs.resume(tmp_path / "run")
    assert runs.resume(tmp_path / "run", force=True).start.done == 8


def test_a_loss_that_is_not_finite_stops_with_the_state_saved(tmp_path):
    run = runs.start(small("training.lr=1e30"), tmp_path / "run")
    with pytest.raises(RunError, match=r"client \d.*task 0, train round 0.*[Ll]ower the learning rate"):
        finished(run)
    assert checkpoint.read(tmp_path / "run" / "state").done == 1


def test_a_full_disk_stops_the_run_and_space_lets_it_go_on(whole, tmp_path, monkeypatch):
    run = runs.start(small(), tmp_path / "run")
    events = run.events()
    next(events), next(events)
    with monkeypatch.context() as patch:

        def full(*_arguments):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(StoppedRun, match=r"disk is full.*needs \d+ bytes"):
            next(events)
    resumed = finished(runs.resume(tmp_path / "run"))
    assert resumed["state_sha256"] == runs.read_results(whole)["state_sha256"]


def test_joint_reports_every_task_after_one(tmp_path):
    results = finished(runs.start(small("method=joint"), tmp_path / "run"))
    assert [len(row) for row in results["accuracy_matrix"]] == [2]
    assert (results["clients"], results["forgetting"]) == (1, 0.0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["backbone.name=nowhere/model"], "backbone"),
        (["backbone.name=timm:deit_tinny"], "timm"),
        (["partition.clients=200"], "clients"),
        (["partition.clients_per_round=9"], "clients_per_round = 9, but there are 2"),
        (["run.device=gpu7"], "run.device = 'gpu7'"),
        (["adapter.blocks=9"], "the backbone has 4 blocks"),
        (["adapter.kind=full"], "does not work with adapter.kind = 'full'; it takes lora"),
        (["data.name=/nowhere.csv"], "nowhere.csv"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        runs.start(small(*more), tmp_path / "run")


def test_a_method_for_images_refuses_texts(tmp_path):
    table = "text,label\n" + "".join(f"word {i},{i % 2}\n" for i in range(20))
    (tmp_path / "own.csv").write_text(table)
    with pytest.raises(UserError, match="method 'l2p' knows image data, 'own' is text data"):
        runs.start(small(f"data.name={tmp_path}/own.csv", "data.classes=2", "method=l2p"), tmp_path / "run")


def test_two_processes_cannot_go_on_with_one_run(tmp_path):
    events = runs.start(small(), tmp_path / "run").events()
    next(events)
    with pytest.raises(UserError, match="another process computes"):
        next(runs.resume(tmp_path / "run").events())
    events.close()
    assert len(list(runs.resume(tmp_path / "run").events())) > 0


def test_whoever_watches_is_told_of_an_early_end(tmp_path):
    events = runs.start(small(), tmp_path / "run").events()
    next(events)
    events.close()
    assert json.loads((tmp_path / "run" / "activity.jsonl").read_text().splitlines()[-1])["what"] == "stopped"
