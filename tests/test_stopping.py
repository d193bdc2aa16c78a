"""A command that is asked to stop says so, keeps its state and leaves with its status, however it is asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from digit_runs import SMALL, finished, small

from fedbraid import runs
from fedbraid.stopping import STATUS, stoppable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

LONG = [word for setting in [*SMALL, "training.rounds=200"] for word in ("--set", setting)]
GRID = """
title = "Long runs"
seeds = [0]
[data.Digits]
data.name = "digits"
data.classes = 4
data.train_per_class = 10
data.test_per_class = 5
stream.tasks = 2
partition.clients = 2
partition.min_samples = 1
training.rounds = 200
training.epochs = 1
[methods.LoRM]
method.name = "lorm"
"""
ASKED = {
    "SIGTERM": [signal.SIGTERM],
    "SIGHUP": [signal.SIGHUP],
    "Ctrl-C twice": [signal.SIGINT, signal.SIGINT],
    "Ctrl-C often": [signal.SIGINT] * 8,
    "both": [signal.SIGINT, signal.SIGTERM],
}


def _heeding() -> None:
    """What is started in the background ignores Ctrl-C, and so does what it starts."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def stopped(
    arguments: Sequence[object], begun: Callable[[], bool] | None, signals: Sequence[int], wait: float = 0.0
) -> tuple[int, str]:
    """(status, what was said) of a command that is sent these signals 5 ms apart, once it has begun: as soon as it
    hears signals, where nothing else is said."""
    command = [sys.executable, "-m", "fedbraid", *map(str, arguments)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, preexec_fn=_heeding, **pipes) as process:
        try:
            until = time.monotonic() + 60
            while not (begun() if begun else _hears(process.pid)):
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < until
                time.sleep(0.02)
            time.sleep(wait)
            for number in signals:
                process.send_signal(number)
                time.sleep(0.005)
            return process.wait(60), process.stderr.read() if process.stderr else ""
        finally:
            process.kill()


def _hears(pid: int) -> bool:
    """Whether a process has a handler of its own for SIGTERM."""
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.parametrize("signals", ASKED.values(), ids=ASKED)
def test_a_run_and_its_continuation(tmp_path: Path, signals: Sequence[int]) -> None:
    out = tmp_path / "run"
    told = f"fedbraid: stopped; the last finished round is saved. Continue with: fedbraid resume {out}\n"
    log = out / "events.jsonl"
    assert stopped(["run", *LONG, "--out", out], lambda: _lines(log) > 1, signals) == (STATUS, told)
    before = _lines(log)
    assert stopped(["resume", out], lambda: _lines(log) > before, signals) == (STATUS, told)
    assert runs.resume(out).start is not None


def test_a_table(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(GRID)
    for signals in (ASKED["SIGTERM"], ASKED["Ctrl-C twice"]):
        out = tmp_path / str(len(signals))
        log = out / "runs" / "Digits" / "LoRM" / "seed-0" / "events.jsonl"
        status, told = stopped(
            ["table", tmp_path / "grid.toml", "--out", out], lambda log=log: _lines(log) > 1, signals
        )
        assert (status, told) == (
            STATUS,
            f"fedbraid: stopped; what has run is kept in {out}. Continue with the same command\n",
        )
        assert "Not finished yet" in (out / "table.md").read_text()
        assert not list(out.rglob("*.error.txt"))


@pytest.mark.parametrize("signals", [ASKED["SIGTERM"], ASKED["Ctrl-C twice"]])
def test_a_watch(tmp_path: Path, signals: Sequence[int]) -> None:
    finished(runs.start(small(), tmp_path / "run"))
    began = time.monotonic()
    told = "fedbraid: the watching has ended; the run is left as it is\n"
    assert stopped(["watch", tmp_path / "run"], lambda: time.monotonic() > began + 3, signals) == (STATUS, told)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="/proc")
@pytest.mark.parametrize("wait", [0.0, 0.3, 0.5, 0.7])
def test_one_that_is_asked_before_there_is_a_run(tmp_path: Path, wait: float) -> None:
    """Imports take a second or more, and one that is cut in two could raise anything, or end the process."""
    status, told = stopped(["run", *LONG, "--out", tmp_path / "run"], None, ASKED["Ctrl-C twice"], wait)
    assert status == STATUS
    assert told.startswith("fedbraid: stopped")
    assert told.count("\n") == 1


def test_what_a_stop_breaks_is_the_stop() -> None:
    code = """
import os, signal
from fedbraid.stopping import stoppable, stops
try:
    with stops():
        raise RecursionError
except RecursionError:
    print("as it was")
try:
    with stoppable(), stops():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            raise RecursionError from None
except KeyboardInterrupt:
    print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["as it was", "stopped"]


def test_the_handlers_are_as_before_where_nobody_asked() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stoppable():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_forked_child_ends_as_it_would_have() -> None:
    with stoppable():
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
