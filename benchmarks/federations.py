"""Federations of separate processes for benchmarks: digits dealt to a server and three sites."""

from __future__ import annotations

import csv
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SITES = ("north", "south", "west")
BEGUN = ["data.classes=4", "stream.sizes=[2,2]"]
EXTENDED = ["data.classes=6", "stream.sizes=[2,2,2]"]
SETTINGS = ["training.rounds=2", "training.epochs=1", "rounds.retries=2", "privacy.small_grams=allow"]
EQUAL = ("state_sha256", "accuracy_matrix", "faa")
BYTES = ("bytes_up_per_client", "bytes_down_per_client")
PATIENCE = 900.0
"""Seconds that anything may take."""


def fedbraid(*arguments: str) -> None:
    command = [sys.executable, "-m", "fedbraid", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"fedbraid {' '.join(arguments[:3])} failed: {done.stderr.strip()[-2000:]}")


def given(settings: Iterable[str]) -> list[str]:
    """Settings as the command line takes them."""
    return [part for setting in settings for part in ("--set", setting)]


def init(fed: Path, data: Path, settings: Sequence[str], *more: str, address: str = "") -> None:
    """A federation whose data are those of `write_digits`."""
    sites = [part for site in SITES for part in ("--site", f"{site}={data / site}")]
    address = address or f"127.0.0.1:{_free_port()}"
    fedbraid(
        "deploy",
        "init",
        str(fed),
        *sites,
        "--address",
        address,
        *more,
        *given([*settings, f"data.name={data / 'server'}"]),
    )


def in_one_process(folder: Path, data: Path, settings: Sequence[str]) -> None:
    """The same run on the union of the sites' data."""
    union = [f"data.name={data / 'union'}", "partition.kind=natural"]
    fedbraid("run", "--out", str(folder), *given([*union, *settings]))


def wait_for(ready: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > until:
            raise SystemExit(f"nothing happened within {PATIENCE:.0f} s")
        time.sleep(0.05)


def finish(fed: Path) -> None:
    """Waits until the federation has nothing left to do."""
    wait_for(lambda: not json.loads((fed / "wanted.json").read_bytes())["go_on"])


def activity(fed: Path) -> list[dict[str, Any]]:
    path = fed / "run" / "activity.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def asked(fed: Path) -> int:
    """The rounds that were begun so far, those begun again too."""
    path = fed / "run" / "activity.jsonl"
    return path.read_bytes().count(b'"what": "round"') if path.is_file() else 0


def results(run: Path) -> dict[str, Any]:
    path = run / "results.json"
    return json.loads(path.read_bytes()) if path.is_file() else {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_digits(folder: Path, *, classes: int = 6, each: int = 14, tests_at_sites: bool = False) -> None:
    """Digits as tables of image files: one folder a site, one with the server's test samples, one with everything.

    A site lacks every third class; what is everybody's lies in `union`, where a column tells whose each sample is. The
    test samples are the server's, and are dealt to the sites where it is they who test.
    """
    sites = SITES
    images, labels = load_digits(return_X_y=True)
    own: dict[str, list[int]] = {site: [] for site in sites}
    tests: list[int] = []
    for label in range(classes):
        rows = np.flatnonzero(labels == label).tolist()
        tests += rows[:each]
        holders = [site for number, site in enumerate(sites) if (label + number) % 3]
        for number, site in enumerate(holders):
            own[site] += rows[each * (number + 1) : each * (number + 2)]
    for number, (name, rows) in enumerate(own.items()):
        _write(folder / name, "train.csv", [(row, labels[row], name) for row in rows], images, with_client=False)
        if tests_at_sites:
            dealt = [(row, labels[row], name) for row in tests[number :: len(sites)]]
            _write(folder / name, "test.csv", dealt, images, with_client=False)
    _write(folder / "server", "test.csv", [(row, labels[row], "") for row in tests], images, with_client=False)
    everything = [(row, labels[row], name) for name, rows in own.items() for row in rows]
    _write(folder / "union", "train.csv", everything, images, with_client=True)
    _write(folder / "union", "test.csv", [(row, labels[row], "nobody") for row in tests], images, with_client=True)


def _write(
    folder: Path, table: str, rows: Sequence[tuple[int, int, str]], images: np.ndarray, *, with_client: bool
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / table).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", *(["client"] if with_client else [])])
        for row, label, client in rows:
            pixels = (images[row].reshape(8, 8) * (255 / 16)).round().astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{row}.png")
            writer.writerow([f"{row}.png", label, *([client] if with_client else [])])
