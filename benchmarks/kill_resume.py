"""Kills runs with SIGKILL at random moments, resumes them, and compares with a run that was never stopped.

    python benchmarks/kill_resume.py --runs 20

Every run is killed the given number of times, each time at a random moment between the start of its process and the
time that a whole run takes; one that ends before its first kill is begun anew. Equal means: the same `state_sha256`,
accuracy matrix, and bytes.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = ["--rounds", "2", "--epochs", "1", "--tasks", "3", "--set", "data.classes=6"]
EQUAL = ("state_sha256", "faa", "aia", "forgetting", "accuracy_matrix", "bytes_up_per_client", "bytes_down_per_client")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=2, help="kills a run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        begin = time.perf_counter()
        _fedbraid("run", "--out", str(root / "whole"), *SETTINGS).wait()
        seconds = time.perf_counter() - begin
        expected = _results(root / "whole")
        print(f"uninterrupted: {seconds:.1f} s, state {expected['state_sha256'][:16]}", flush=True)
        equal = 0
        for number in range(options.runs):
            moments: list[float] = []
            while not moments:
                shutil.rmtree(root / str(number), ignore_errors=True)
                moments = _killed_and_resumed(root / str(number), draw, options.kills, seconds)
            same = {key: _results(root / str(number)).get(key) for key in EQUAL} == expected
            equal += same
            print(f"run {number}: killed after {moments} s: {'equal' if same else 'DIFFERENT'}", flush=True)
        print(f"{equal} of {options.runs} resumed runs equal the uninterrupted one")
        sys.exit(equal != options.runs)


def _killed_and_resumed(folder: Path, draw: random.Random, kills: int, seconds: float) -> list[float]:
    """The moments of the kills, each in seconds after the start of its process."""
    moments: list[float] = []
    for _ in range(kills):
        process = _go_on(folder)
        moment = draw.uniform(0.0, 1.0) * seconds
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            moments.append(round(moment, 2))
    _go_on(folder).wait()
    return moments


def _go_on(folder: Path) -> subprocess.Popen[bytes]:
    if (folder / "config.toml").is_file():
        return _fedbraid("resume", str(folder))
    return _fedbraid("run", "--out", str(folder), *SETTINGS)


def _fedbraid(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from fedbraid.cli import main; main()", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _results(folder: Path) -> dict[str, object]:
    path = folder / "results.json"
    return {key: json.loads(path.read_text())[key] for key in EQUAL} if path.is_file() else {}


if __name__ == "__main__":
    main()
