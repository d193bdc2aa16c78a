"""Small whole runs for benchmarks that break them: each in a process of its own, compared with one that nothing broke.

A run is LoRM on digits, or DER++ whose clients are sites with folders of their own (`sites`), and takes a second or
two. Processes are forked from one that has imported everything, so that hundreds of runs take minutes.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SETTINGS = (
    "data.classes=4",
    "data.train_per_class=8",
    "data.test_per_class=3",
    "stream.tasks=2",
    "partition.clients=3",
    "partition.min_samples=1",
    "training.rounds=1",
    "training.epochs=1",
    "run.threads=1",
)
TIMES = ("seconds", "test_seconds", "peak_rss_bytes", "at")
"""What differs between two equal runs."""


@dataclass(frozen=True)
class Small:
    """A kind of run."""

    method: str = "lorm"
    sites: bool = False

    def go_on(self, folder: Path) -> None:
        """Begins the run of a folder or continues it, as the command line does, and ends the process."""
        from fedbraid import config, runs
        from fedbraid.errors import RunError, UserError
        from fedbraid.terminal import drive, fail
        from fedbraid.testing.sites import Sites

        def connect(experiment: Any) -> Sites:
            return Sites(experiment.work, experiment.clients, experiment.evaluators, folder / "clients")

        options = {"connect": connect} if self.sites else {}
        try:
            if (folder / "config.toml").is_file():
                drive(lambda: runs.resume(folder, **options))
            else:
                settings = config.read("", [*SETTINGS, f"method.name={self.method}"])
                drive(lambda: runs.start(settings, folder, **options))
        except (UserError, RunError) as error:
            fail(str(error), 2)


@dataclass(frozen=True)
class Ended:
    """How a process ended (a signal is a negative status), and what it printed."""

    status: int
    text: str

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.text

    @property
    def said(self) -> str:
        """Its message to the user."""
        return self.text[self.text.rfind("fedbraid: ") :].strip() if "fedbraid: " in self.text else self.text[-500:]


def child(work: Callable[[], None], output: Path, *, within: float = 600.0) -> Ended:
    """Runs this in a forked process until it ends; one that has not ended within so many seconds is killed."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _be(work, output)
    until = time.monotonic() + within
    while (found := os.waitpid(pid, os.WNOHANG))[0] == 0:
        time.sleep(0.005)
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            found = os.waitpid(pid, 0)
            break
    return Ended(os.waitstatus_to_exitcode(found[1]), output.read_text(errors="replace"))


def _be(work: Callable[[], None], output: Path) -> None:
    status = 70
    try:
        with output.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        torch.set_num_threads(1)
        work()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def warm(folder: Path) -> None:
    """Imports whatever a run imports and builds one, so that forked processes begin at once; nothing is trained."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    names = folder / "modules"

    def work() -> None:
        with suppress(SystemExit):
            Small().go_on(folder / "run")
        names.write_text("\n".join(sys.modules))

    child(work, folder / "output")
    for name in names.read_text().split():
        with suppress(Exception):
            importlib.import_module(name)
    from fedbraid import config
    from fedbraid.experiment import build

    for method in ("lorm", "derpp"):
        build(config.read("", [*SETTINGS, f"method.name={method}"]))


def whole(kind: Small, folder: Path) -> tuple[dict[str, Any], float]:
    """What an uninterrupted run comes to, and the seconds that it took."""
    begin = time.perf_counter()
    ended = child(lambda: kind.go_on(folder), folder.parent / "output")
    if ended.status:
        raise SystemExit(f"the uninterrupted run failed: {ended.text}")
    return outcome(folder), time.perf_counter() - begin


def outcome(folder: Path) -> dict[str, Any]:
    """All that a finished run tells, except times: state, metrics, records; empty where it is not finished."""
    results, log, page = folder / "results.json", folder / "events.jsonl", folder / "report.html"
    if not (results.is_file() and page.is_file() and page.read_text().rstrip().endswith("</html>")):
        return {}
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return {"results": _timeless(json.loads(results.read_text())), "records": [_timeless(one) for one in records]}


def without_resent(told: Mapping[str, Any]) -> dict[str, Any]:
    """The same without the bytes that clients were sent, for runs in which one is sent again what it had lost."""

    def kept(values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if key not in ("bytes_down", "bytes_down_per_client")}

    return {"results": kept(told["results"]), "records": [kept(one) for one in told["records"]]} if told else {}


def _timeless(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in TIMES}
