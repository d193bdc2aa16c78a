"""Flower's simulation: the same bits and bytes as in process; what goes wrong comes back as errors."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import digit_runs
import pytest
import torch
from digit_runs import EQUAL

pytest.importorskip("flwr", reason="the extra 'flower' is not installed")
pytest.importorskip("ray", reason="the extra 'flower' is not installed")

from fedbraid import config, runs, sites
from fedbraid.errors import StoppedRun, UserError
from fedbraid.sites import backend

SMALL = [*digit_runs.SMALL, "partition.clients=3"]


def test_the_simulation_is_the_run_in_process_also_where_it_is_resumed(tmp_path: Path) -> None:
    for _ in runs.start(config.read("", SMALL), tmp_path / "here").events():
        pass
    begun = runs.start(config.read("", [*SMALL, "run.runtime=flower", "run.at_once=2"]), tmp_path / "there")
    events = begun.events()
    for _ in range(3):
        next(events)
    events.close()
    for _ in runs.resume(tmp_path / "there").events():
        pass
    here, there = (runs.read_results(tmp_path / name) for name in ("here", "there"))
    assert {key: here[key] for key in EQUAL} == {key: there[key] for key in EQUAL}


def test_the_simulation_of_a_masked_run_has_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")
    masked = [*SMALL, "secure.masked=true", "stream.tasks=1", "training.rounds=1"]
    for name, where in (("here", []), ("there", ["run.runtime=flower", "run.at_once=2"])):
        for _ in runs.start(config.read("", [*masked, *where]), tmp_path / name).events():
            pass
    here, there = (runs.read_results(tmp_path / name) for name in ("here", "there"))
    assert {key: here[key] for key in EQUAL} == {key: there[key] for key in EQUAL}


def test_a_client_that_fails_is_named_and_costs_itself_the_round(tmp_path: Path) -> None:
    begun = runs.start(config.read("", [*SMALL, "run.runtime=flower"]), tmp_path / "run")
    (tmp_path / "run" / "clients").mkdir()
    (tmp_path / "run" / "clients" / "0").write_text("a file where its folder should be")
    reason = r"2 of 3 clients answered, 3 are needed \(client 0: cannot write .*File exists"
    with pytest.raises(StoppedRun, match=reason):
        for _ in begun.events():
            pass


def test_without_the_extra_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr", None)
    with pytest.raises(UserError, match=r"needs an extra that is not installed: pip install 'fedbraid\[flower\]'"):
        runs.start(config.read("", [*SMALL, "run.runtime=flower"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_devices_than_there_are_is_said_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sites, "device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    four = config.read("", [*SMALL, "run.runtime=flower", "run.gpus=4"])
    with pytest.raises(UserError, match=r"run\.gpus = 4, and this machine has 2; set fewer, or join a cluster"):
        runs.start(four, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("RAY_ADDRESS", "")
    sites.check_settings(config.read("", [*SMALL, "run.runtime=flower", "run.gpus=4", "run.ray=auto"]))


@pytest.mark.parametrize("devices", [0, 1, 2, 3, 4, 8])
@pytest.mark.parametrize("at_once", [1, 2, 3, 4, 6, 7, 9, 28])
def test_shares_have_room_for_all_and_use_the_devices(at_once: int, devices: int) -> None:
    """As Ray places them: whole shares of its 10,000 parts, one device filled before the next."""
    share = backend(at_once, devices)["client_resources"]["num_gpus"]
    if not devices:
        assert share == 0
        return
    on_each = int(10_000 / math.ceil(share * 10_000))
    assert on_each * devices >= at_once
    assert on_each == math.ceil(at_once / devices)


@pytest.mark.parametrize(
    ("address", "known", "message"),
    [
        ("127.0.0.1:1", "", r"no Ray cluster answers at 127\.0\.0\.1:1 "),
        ("auto", "127.0.0.1:1", r"run\.ray = 'auto': no Ray cluster answers at 127\.0\.0\.1:1 "),
        ("nowhere", "", "'nowhere' is no host:port"),
        ("ray://127.0.0.1:99999", "", "is no host:port"),
    ],
)
def test_a_cluster_that_does_not_answer_is_named_before_the_run(
    address: str, known: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", known)
    with pytest.raises(UserError, match=message):
        runs.start(config.read("", [*SMALL, "run.runtime=flower", f"run.ray={address}"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_joins_a_cluster_and_has_the_same_bits(tmp_path: Path) -> None:
    code = "import ray, time; found = ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False); "
    code += "print(found.address_info['gcs_address'], flush=True); time.sleep(300)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as cluster:
        try:
            assert cluster.stdout
            address = cluster.stdout.readline().strip()
            for name, where in (("here", []), ("there", ["run.runtime=flower", f"run.ray={address}"])):
                for _ in runs.start(config.read("", [*SMALL, *where]), tmp_path / name).events():
                    pass
        finally:
            cluster.terminate()
    here, there = (runs.read_results(tmp_path / name) for name in ("here", "there"))
    assert {key: here[key] for key in EQUAL} == {key: there[key] for key in EQUAL}


def test_a_cluster_that_is_joined_has_its_own_cores_and_devices() -> None:
    found = backend(8, 8, "10.0.0.1:6379")
    assert found["client_resources"] == {"num_cpus": 1, "num_gpus": 1.0}
    assert {key: found["init_args"].get(key) for key in ("address", "num_cpus", "num_gpus")} == {
        "address": "10.0.0.1:6379",
        "num_cpus": None,
        "num_gpus": None,
    }


@pytest.mark.parametrize(("devices", "on_each"), [(4, 1), (2, 2)])
def test_actors_at_once_have_devices_of_their_own(devices: int, on_each: int) -> None:
    """Devices are declared: Ray gives numbers of devices, whether they are there or not."""
    told = subprocess.run([sys.executable, "-c", FOUR, str(devices)], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout.splitlines()[-1])
    assert len({one["process"] for one in found}) == 4
    assert Counter(one["visible"] for one in found) == {str(number): on_each for number in range(devices)}
    assert all(one["given"] == [int(one["visible"])] for one in found)


FOUR = """
import json, os, sys, threading, time
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from fedbraid.runtimes.envelope import replied, unpack
from fedbraid.runtimes.flower import _push
from fedbraid.sites import backend

client, server = ClientApp(), ServerApp()

@client.train()
def work(message, context):
    import ray
    time.sleep(2)  # so that all four are at work
    facts = {"visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "given": ray.get_gpu_ids(), "process": os.getpid()}
    return replied(message, lambda: json.dumps(facts).encode())

@server.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 4:
        time.sleep(0.1)
    waiting, found = _push(grid, dict.fromkeys(nodes, b""), "train"), []
    while waiting:
        for reply in grid.pull_messages(list(waiting)):
            del waiting[reply.metadata.reply_to_message_id]
            found.append(json.loads(unpack(reply)))
        time.sleep(0.1)
    print(json.dumps(found), flush=True)

run_simulation(server, client, 4, backend_config=backend(4, int(sys.argv[1])))
"""
