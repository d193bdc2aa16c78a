"""What leaves is written down before it does, and Grams on too few samples stay."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from digit_runs import small

from fedbraid import runs
from fedbraid.core import Round, Task
from fedbraid.errors import RunError, StoppedRun
from fedbraid.experiment import build
from fedbraid.privacy import guard as guards
from fedbraid.privacy.guard import FILE, Guard
from fedbraid.quantities import CLASS_GRAM, CLASS_MOMENTS, GRAMS, SAMPLES, VALUE
from fedbraid.runtimes.inprocess import InProcess
from fedbraid.runtimes.server import Server
from fedbraid.wire import entries

ROUND = Round(Task(0, (0, 2)), "train", 0, 0)
GRAM = {"lora_B/a": torch.zeros(3, 2), "triangle/lora_B/a": torch.zeros(10), "count": torch.tensor(9.0)}
GIVES = {"lora_A": VALUE, "lora_B": VALUE, "count": SAMPLES, **GRAMS}
MOMENTS = {**CLASS_MOMENTS, "second": CLASS_GRAM}


class Looking(InProcess):
    """A transport that looks at what is written when an answer comes out of a client."""

    folder: Path
    seen: list[tuple[str, str, set[str]]]

    def ask(self, questions, received, round):
        for answer in super().ask(questions, received, round):
            self.seen.append(
                (round.phase, answer.client, {entry["phase"] for entry in guards.read(self.folder / FILE)})
            )
            yield answer


def test_the_report_is_there_before_the_first_upload_of_every_phase(tmp_path: Path) -> None:
    experiment = build(small()).guarded(tmp_path)
    transport = Looking(experiment.work, experiment.clients, experiment.evaluators)
    transport.folder, transport.seen = tmp_path, []
    for _ in experiment.events(Server(experiment.work, transport)):
        pass
    assert {phase for phase, _, _ in transport.seen} == {"train", "consolidate", "evaluate"}
    assert all(phase in written for phase, _, written in transport.seen)


def test_of_every_kind_of_message_the_worst_is_kept(tmp_path: Path) -> None:
    told: list[dict] = []
    guard = Guard(tmp_path, tell=lambda what, **facts: told.append({"what": what, **facts}))
    for client, samples in (("a", 9), ("b", 30), ("c", 7)):
        guard.check(GRAM, GIVES, ROUND, client, samples)
    guard.check({"lora_A/a": torch.zeros(2, 3)}, GIVES, ROUND, "a", 9)
    first, second = guards.read(tmp_path / FILE)
    assert (first["client"], first["samples"], first["grams"][0]["per_dimension"]) == ("c", 7, 7 / 4)
    assert [part["kind"] for part in second["parts"]] == ["lora_A"]
    assert [(entry["client"], entry["first"]) for entry in told] == [("a", True), ("c", False), ("a", True)]
    again = Guard(tmp_path, tell=lambda what, **facts: told.append(facts))
    again.check(GRAM, GIVES, ROUND, "b", 8)
    assert len(told) == 3, "it goes on where it was"


def test_sites_reports_come_together(tmp_path: Path) -> None:
    for client, samples in (("a", 9), ("b", 5)):
        Guard(tmp_path / "clients" / client).check(GRAM, GIVES, ROUND, client, samples)
    guard = Guard(tmp_path)
    guard.absorb(tmp_path / "clients")
    (entry,) = guards.read(tmp_path / FILE)
    assert entry["client"] == "b"


@pytest.mark.parametrize(("old", "new"), [("{", "["), ('"kind"', '"kinD"'), ('"samples": 9', '"samples": 8')])
def test_a_damaged_report_is_named(tmp_path: Path, old: str, new: str) -> None:
    Guard(tmp_path).check(GRAM, GIVES, ROUND, "a", 9)
    text = (tmp_path / FILE).read_text()
    assert old in text
    (tmp_path / FILE).write_text(text.replace(old, new, 1))
    with pytest.raises(RunError, match=r"privacy\.json is damaged"):
        Guard(tmp_path)


def test_a_gram_on_too_few_samples_stays_and_the_refusal_says_why(tmp_path: Path) -> None:
    guard = Guard(tmp_path, refuse=True)
    guard.check(GRAM, GIVES, ROUND, "site a", 4)
    with pytest.raises(RunError) as refused:
        guard.check(GRAM, GIVES, ROUND, "site a", 3)
    for word in (
        "site a",
        "triangle/lora_B/a",
        "on 3 samples",
        "width is 4",
        "diagonal Gram",
        "masked mode",
        "small_grams",
    ):
        assert word in str(refused.value)
    (entry,) = guards.read(tmp_path / FILE)
    assert entry["samples"] == 4, "what stayed has not left"
    Guard(refuse=True, masked=True).check(GRAM, GIVES, ROUND, "site a", 1)


def test_sums_by_class_rest_on_the_rarest_class() -> None:
    message, round = {"first": torch.zeros(2, 3), "count": torch.tensor([29.0, 1.0])}, replace(ROUND, phase="measure")
    with pytest.raises(RunError, match="a sum by class of 1 samples stays") as refused:
        Guard(least=20).check(message, CLASS_MOMENTS, round, "a", 30, 1)
    assert (refused.value.code, refused.value.needed) == ("too few samples", 20)
    Guard(least=20).check(message, CLASS_MOMENTS, round, "a", 49, 20)
    assert list(Guard(least=20).short_of(entries(message, CLASS_MOMENTS), round, 30, 1)) == [("a sum by class", 20)]
    values = {"lora_A/a": torch.zeros(2, 3), "count": torch.tensor(30.0)}
    Guard(least=20).check(values, GIVES, round, "a", 30, 1)


def test_a_gram_of_a_class_needs_samples_of_that_class() -> None:
    message = {"second": torch.zeros(3, 6), "count": torch.tensor([9.0, 0.0, 2.0])}
    with pytest.raises(RunError, match="on 2 samples"):
        Guard(refuse=True).check(message, MOMENTS, ROUND, "a", 11)
    Guard(refuse=True).check(message | {"count": torch.tensor([9.0, 0.0, 3.0])}, MOMENTS, ROUND, "a", 12)


@pytest.mark.parametrize(
    ("word", "deployed", "refused"),
    [("auto", True, True), ("auto", False, False), ("refuse", False, True), ("allow", True, False)],
)
def test_where_small_grams_are_refused(word: str, deployed: bool, refused: bool, tmp_path: Path) -> None:
    settings = small(f"privacy.small_grams={word}")
    experiment = build(settings).guarded(tmp_path, deployed=deployed)
    server = Server(experiment.work, experiment.here())
    if refused:
        with pytest.raises(StoppedRun, match="leave this client in the clear"):
            list(experiment.events(server))
    else:
        next(iter(experiment.events(server)))


def test_a_run_tells_it_in_its_folder_its_log_and_its_page(tmp_path: Path) -> None:
    heard: list[str] = []
    run = runs.start(small(), tmp_path / "run")
    for _ in replace(run, heard=lambda what, **facts: heard.append(what)).events():
        pass
    assert {entry["phase"] for entry in guards.read(run.folder / FILE)} == {"train", "consolidate", "evaluate"}
    log = [json.loads(line) for line in (run.folder / "activity.jsonl").read_text().splitlines()]
    entries = [entry for entry in log if entry["what"] == "privacy"]
    assert "which discloses the span of these samples; no noise, so not private" in entries[0]["said"]
    assert heard.count("privacy") == len(entries)
    order = [entry["what"] for entry in log]
    assert order.index("round") < order.index("privacy") < order.index("received")
    assert "What left the clients" in (run.folder / "report.html").read_text()
