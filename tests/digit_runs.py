"""The smallest run with everything in it: two tasks of two digits, two clients, two rounds of an epoch."""

from __future__ import annotations

from fedbraid import config, runs
from fedbraid.config import Config
from fedbraid.runs import Run

SMALL = [
    "data.classes=4",
    "data.train_per_class=10",
    "data.test_per_class=5",
    "stream.tasks=2",
    "partition.clients=2",
    "partition.min_samples=1",
    "training.rounds=2",
    "training.epochs=1",
]
EQUAL = ("state_sha256", "faa", "accuracy_matrix", "bytes_up_per_client", "bytes_down_per_client")
"""Results that do not depend on where and how fast a run was computed."""


def small(*more: str) -> Config:
    """Its configuration, with what differs."""
    return config.read("", [*SMALL, *more])


def finished(run: Run) -> dict:
    """Its results once it has ended."""
    for _ in run.events():
        pass
    return runs.read_results(run.folder)
