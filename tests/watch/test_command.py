"""`fedbraid watch` as a user meets it, and over runs that write their folders themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from typing import Any

import pytest
from typer.testing import CliRunner

from fedbraid import config, runs
from fedbraid.cli import app
from fedbraid.errors import StoppedRun
from fedbraid.watch.status import Watch

CODE = "import sys; from fedbraid.cli import main; sys.argv[0] = 'fedbraid'; main()"
SMALL = ["data.classes=2", "data.train_per_class=10", "data.test_per_class=5", "partition.min_samples=1"]
SMALL += ["stream.tasks=1", "partition.clients=2", "training.rounds=1", "training.epochs=1"]


def test_json_prints_one_status_and_ends(folder) -> None:
    folder.ask(["1"])
    result = CliRunner().invoke(app, ["watch", str(folder.path), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["run"] == "run"


def test_a_mistake_is_one_line(tmp_path) -> None:
    result = subprocess.run([sys.executable, "-c", CODE, "watch", str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 2
    assert "holds no run" in result.stderr
    assert "Traceback" not in result.stderr


def test_watching_imports_nothing_heavy(folder) -> None:
    code = "import sys; from fedbraid.cli import app; from typer.testing import CliRunner; "
    code += f"CliRunner().invoke(app, ['watch', {str(folder.path)!r}, '--json']); "
    code += "print('fedbraid.watch.status' in sys.modules, {'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True set()"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupt_ends_it_with_a_word(folder) -> None:
    folder.ask(["1"])
    command = [sys.executable, "-c", CODE, "watch", str(folder.path)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": _env()}
    with subprocess.Popen(command, preexec_fn=_heed_interrupts, **pipes) as process:
        try:
            assert process.stdout
            assert process.stderr
            address = process.stdout.readline().strip()
            assert "not begun" not in process.stdout.readline()
            with urllib.request.urlopen(f"{address}status.json", timeout=10) as answer:
                assert json.load(answer)["round"]["asked"] == 1
            time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
            assert process.stderr.read() == "fedbraid: the watching has ended; the run is left as it is\n"
        finally:
            process.kill()


def _heed_interrupts() -> None:
    """What is started in the background ignores Ctrl-C, and so does what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def test_a_run_as_it_writes_its_folder_itself(tmp_path) -> None:
    """After every round the picture says what the run knows of itself."""
    run = runs.start(config.read("", SMALL), tmp_path / "run")
    watch = Watch(tmp_path / "run")
    assert watch.look().state == "not begun"
    up = 0
    for event in run.events():
        status = watch.look()
        up += sum(event.outcome.bytes_up.values())
        assert (status.state, status.progress.done, status.up) == ("running", event.number + 1, up)
        assert status.round is None or status.round.over
    status = watch.look()
    assert status.state == "finished"
    assert status.progress.done == status.progress.rounds
    assert status.training
    assert (status.training.asked, status.training.needed) == (2, 2)
    assert [client.state for client in status.clients] == ["sent", "sent"]
    results = runs.read_results(tmp_path / "run")
    assert status.results["faa"] == results["faa"] == status.scores[0].last


def test_a_run_that_pauses_by_itself(tmp_path) -> None:
    """A learning rate at which no client can answer: who failed is asked again, then the run pauses."""
    wild = ["training.lr=1e30", "training.optimizer=sgd", "rounds.retries=1"]
    run = runs.start(config.read("", [*SMALL, *wild]), tmp_path / "run")
    with pytest.raises(StoppedRun):
        for _ in run.events():
            pass
    status = Watch(tmp_path / "run").look()
    assert status.state == "paused"
    assert status.why == "0 of 2 clients answered, 2 are needed"
    assert {client.state for client in status.clients} <= {"failed", "refused"}
    assert all(client.reason for client in status.clients)
    assert [one.what for one in status.troubles if one.what in ("paused", "again")] == ["paused", "again"]
