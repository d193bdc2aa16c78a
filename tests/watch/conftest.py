"""Run folders made by hand, as a run writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

BEGIN = datetime(2026, 1, 31, 12, 0, tzinfo=timezone.utc)


class Folder:
    """A run folder that is written entry by entry; `now` is the time of the next entry."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = BEGIN
        self.done = 0
        path.mkdir(parents=True)
        (path / "config.toml").write_text('[method]\nname = "lorm"\n[data]\nname = "digits"\n')

    def summarise(self, clients: Sequence[str], rounds: int = 10, tasks: int = 2) -> None:
        facts = {"method": "lorm", "data": "digits", "backbone": "tiny", "seed": 0, "clients": len(clients)}
        facts |= {"tasks": tasks, "rounds": rounds, "score_names": ["accuracy"]}
        facts["partition"] = {"kind": "dirichlet", "samples": {client: [10, 20] for client in clients}}
        (self.path / "summary.json").write_text(json.dumps(facts))

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def say(self, what: str, **facts: Any) -> None:
        line = {"at": self.now.isoformat(timespec="milliseconds"), "what": what, **facts}
        with (self.path / "activity.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")

    def ask(self, cohort: Sequence[str], task: int = 0, phase: str = "train", index: int = 0, **rules: Any) -> None:
        spelt = json.dumps({"task": {"index": task, "offsets": [0, 2, 4]}, "phase": phase, "index": index, "seed": 0})
        self.say("round", round=spelt, cohort=list(cohort), **rules)

    def merge(self, reported: Sequence[str]) -> None:
        self.say("merged", round="", reported=list(reported), seconds=1.0)

    def finish(self, reported: Sequence[str], accuracy: float | None = None, /, **facts: Any) -> None:
        """The record of a finished round."""
        record = {"event": self.done, "task": 0, "phase": "train", "round": self.done, "reported": list(reported)}
        record |= {"idle": [], "failed": {}, "refused": {}, "seconds": 4.0, "test_seconds": 1.0, "scores": {}}
        record |= {"bytes_up": dict.fromkeys(reported, 1000), "bytes_down": dict.fromkeys(reported, 500)}
        record |= {"correct": None, "total": None}
        if accuracy is not None:
            record |= {"correct": [round(accuracy * 1000)], "total": [1000]}
        with (self.path / "events.jsonl").open("a") as log:
            log.write(json.dumps(record | facts, separators=(",", ":")) + "\n")
        self.done += 1


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "run")
