"""Masked mode as users switch it on: what it gives, what it says of itself, and what it refuses before a run begins."""

from __future__ import annotations

import json
from pathlib import Path

import digit_runs
import pytest
from digit_runs import EQUAL

pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")

from fedbraid import config, runs
from fedbraid.core import EVALUATE
from fedbraid.errors import UserError

SMALL = [*digit_runs.SMALL, "partition.clients=4"]
MASKED = [*SMALL, "secure.masked=true"]


def finished(folder: Path, settings: list[str], *, stops: int = 0) -> dict:
    """The results of a run; stopped and resumed after so many rounds, if any."""
    begun = runs.start(config.read("", settings), folder)
    events = begun.events()
    for _ in range(stops):
        next(events)
    if stops:
        events.close()
        events = runs.resume(folder).events()
    for _ in events:
        pass
    return runs.read_results(folder)


def test_a_masked_run_is_right_resumes_and_says_what_it_is(tmp_path: Path) -> None:
    clear = finished(tmp_path / "clear", SMALL)
    whole = finished(tmp_path / "whole", MASKED)
    again = finished(tmp_path / "again", MASKED, stops=3)
    assert {key: whole[key] for key in EQUAL} == {key: again[key] for key in EQUAL}
    assert whole["accuracy_matrix"] == clear["accuracy_matrix"]
    assert whole["bytes_up_per_client"] > clear["bytes_up_per_client"]
    [note] = whole["notes"]
    assert note.startswith(
        "masked sums, threshold 4 of 4, not signed by the clients: the server saw no client's update"
    )
    assert note.partition(":")[0] in (tmp_path / "whole" / "report.html").read_text()
    rounds = [json.loads(line) for line in (tmp_path / "whole" / "activity.jsonl").read_text().splitlines()]
    masked = {json.loads(found["round"])["phase"]: "masked" in found for found in rounds if found["what"] == "round"}
    assert masked == {"train": True, "consolidate": True, EVALUATE: False}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["method.name=fedex_lora"], r"'fedex_lora' sends what is each client's own .* these always do: afl, "),
        (["method.name=pilora"], r"'pilora' sends what is each client's own"),
        (["partition.clients=2"], r"a masked sum of 2 clients hides nothing; it takes 3 or more"),
        (["partition.clients_per_round=2"], r"a masked sum of 2 clients hides nothing"),
        (["secure.threshold=5"], r"the threshold of 4 clients is 3 to 4, not 5"),
        (["partition.clients=8", "secure.threshold=4"], r"the threshold of 8 clients is 5 to 8, not 4"),
        (["secure.threshold=2"], r"secure.threshold"),
    ],
)
def test_what_cannot_be_masked_is_refused_before_it_begins(settings: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        runs.start(config.read("", [*MASKED, *settings]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("encoding", ["dense", "sketch"])
def test_a_method_that_sends_sums_by_its_options_is_not_refused(encoding: str, tmp_path: Path) -> None:
    options = ["method.name=fedex_lora", f"method.encoding={encoding}"]
    options += ["method.sketch_width=16"] if encoding == "sketch" else []
    runs.start(config.read("", [*MASKED, *options]), tmp_path / "run")
