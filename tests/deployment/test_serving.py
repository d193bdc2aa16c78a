"""A federation over a grid in memory: sites with data of their own, the same numbers as in one process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("flwr", reason="the extra 'flower' is not installed")
pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")

from small_federations import LONGER, SMALL, Grid, federation, grid_of

from fedbraid import config, runs
from fedbraid.deployment import faults
from fedbraid.deployment.commands import add
from fedbraid.deployment.federation import read
from fedbraid.deployment.serving import serve
from fedbraid.errors import StoppedRun, UserError
from fedbraid.runtimes import flower

EQUAL = ("state_sha256", "faa", "accuracy_matrix", "bytes_up_per_client", "bytes_down_per_client")

pytestmark = pytest.mark.usefixtures("identity")


def nothing(_text: str) -> None:
    """What a run says goes to Flower's log otherwise."""


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The results of the run in one process on the union of the data."""
    return in_one_process(data, tmp_path_factory.mktemp("runs") / "whole")


def in_one_process(data: Path, folder: Path, *more: str) -> dict:
    """The results of a run that knew everything from the start."""
    settings = [*SMALL, f"data.name={data / 'union'}", "partition.kind=natural", *more]
    for _ in runs.start(config.read("", settings), folder).events():
        pass
    return runs.read_results(folder)


def test_sites_with_their_own_data_compute_what_one_process_does_also_with_a_task_that_comes_later(
    data: Path, tmp_path: Path, whole: dict
) -> None:
    made = federation(tmp_path / "fed", data)
    grid = grid_of(made)
    serve(grid, made, nothing)  # pyright: ignore[reportArgumentType]
    first = runs.read_results(made.run)
    assert {key: first[key] for key in EQUAL} == {key: whole[key] for key in EQUAL}
    runs.extend(made.run, LONGER)
    assert not runs.read_results(made.run)["finished"]
    serve(grid, made, nothing)  # pyright: ignore[reportArgumentType]
    later, longer = runs.read_results(made.run), in_one_process(data, tmp_path / "longer", *LONGER)
    assert {key: later[key] for key in EQUAL} == {key: longer[key] for key in EQUAL}
    assert json.loads((made.site("north") / "privacy.json").read_text())["messages"]


def test_replies_that_are_asked_for_one_at_a_time_all_come(
    data: Path, tmp_path: Path, whole: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flower, "LOOK", 1)
    made = federation(tmp_path / "fed", data)
    serve(grid_of(made), made, nothing)  # pyright: ignore[reportArgumentType]
    assert runs.read_results(made.run)["state_sha256"] == whole["state_sha256"]


def test_test_samples_of_the_sites_are_counted_there_and_summed(data: Path, tmp_path: Path, whole: dict) -> None:
    made = federation(tmp_path / "fed", data, evaluate="sites")
    serve(grid_of(made), made, nothing)  # pyright: ignore[reportArgumentType]
    found = runs.read_results(made.run)
    assert [found[key] for key in ("state_sha256", "accuracy_matrix")] == [
        whole[key] for key in ("state_sha256", "accuracy_matrix")
    ]


def test_a_run_stopped_in_mid_round_goes_on_with_other_processes_everywhere(
    data: Path, tmp_path: Path, whole: dict
) -> None:
    made = federation(tmp_path / "fed", data)
    grid = grid_of(made)
    grid.nodes[11].status = "offline"
    with pytest.raises(StoppedRun, match=r"1 of 2 clients answered.*client south: its node is not connected"):
        serve(grid, made, nothing)  # pyright: ignore[reportArgumentType]
    again = grid_of(made)
    serve(again, made, nothing)  # pyright: ignore[reportArgumentType]
    assert [kind for node, kind in again.sent if node == 10].count("train") + 1 == [
        kind for node, kind in again.sent if node == 11
    ].count("train")  # what had come was in the journal
    assert runs.read_results(made.run)["state_sha256"] == whole["state_sha256"]


@dataclass
class Leaving(Grid):
    """The second site's node leaves when it is first asked, and is another one a moment later."""

    looks: int = 0

    def push_messages(self, messages: Sequence[Any]) -> list[str]:
        asked = {message.metadata.dst_node_id: message.metadata.message_type for message in messages}
        if asked.get(11) != "train":
            return super().push_messages(messages)
        self.nodes[11].status = "offline"
        return super().push_messages([message for message in messages if message.metadata.dst_node_id != 11])

    def get_nodes(self) -> list[SimpleNamespace]:
        self.looks += self.nodes[11].status == "offline"
        if self.looks == 4:
            self.nodes[12] = replace(self.nodes[11], status="online")
        return super().get_nodes()


def test_a_node_that_is_lost_and_comes_back_is_asked_again_in_the_same_round(
    data: Path, tmp_path: Path, whole: dict
) -> None:
    made = federation(tmp_path / "fed", data, "rounds.retries=1")
    grid = Leaving(grid_of(made).nodes)
    serve(grid, made, nothing)  # pyright: ignore[reportArgumentType]
    assert grid.looks > 4
    log = (made.run / "activity.jsonl").read_text()
    assert "its node has left" in log
    assert log.count('"again"') == 1
    assert runs.read_results(made.run)["state_sha256"] == whole["state_sha256"]


def test_a_node_that_does_not_come_back_is_waited_for_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = federation(tmp_path / "fed", data, "rounds.retries=3")
    grid = Leaving(grid_of(made).nodes, looks=5)
    monkeypatch.setattr(flower, "RETURN", 0.3)
    with pytest.raises(StoppedRun, match="client south: its node is not connected"):
        serve(grid, made, nothing)  # pyright: ignore[reportArgumentType]
    assert 5 < grid.looks < 30


def test_a_site_cannot_answer_for_another(data: Path, tmp_path: Path) -> None:
    made = federation(tmp_path / "fed", data)
    grid = grid_of(made)
    north = grid.nodes[10]
    grid.nodes[11] = replace(north, name="south", greet=lambda _: b'{"client": "north"}')
    grid.nodes[12] = replace(north, name="stranger")
    with pytest.raises(StoppedRun, match="its node calls itself 'north', and is registered as 'south'"):
        serve(grid, made, nothing)  # pyright: ignore[reportArgumentType]
    assert 12 not in [node for node, _ in grid.sent]


def test_what_is_wrong_at_a_site_is_told_at_the_server(data: Path, tmp_path: Path) -> None:
    sites = {"north": str(data / "north"), "south": str(tmp_path / "nowhere")}
    made = federation(tmp_path / "fed", data, "rounds.retries=1", sites=sites)
    told = "its own data, model or settings do not fit the run; the sentence is in the log of the site"
    with pytest.raises(StoppedRun, match=f"client south: {told}"):
        serve(grid_of(made), made, nothing)  # pyright: ignore[reportArgumentType]
    log = (made.run / "activity.jsonl").read_text()
    assert log.count(told) >= 2
    assert "nowhere" not in log
    assert json.loads((made.folder / "outcome.json").read_text())["outcome"] == "paused"
    kept = faults.read(made.site("south"))["settings"]
    assert kept["times"] >= 2
    assert f"there is no file or folder {tmp_path / 'nowhere'}" in kept["sentence"]


def test_what_nobody_foresaw_leaves_a_traceback_at_the_site_and_a_code_at_the_server(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = federation(tmp_path / "fed", data)
    grid = grid_of(made)

    def broken(_question: bytes) -> bytes:
        raise KeyError("P-001 of /data/north.csv")

    grid.nodes[11] = replace(grid.nodes[11], answer=broken)
    with pytest.raises(StoppedRun, match="client south: something went wrong there that nobody foresaw"):
        serve(grid, made, nothing)  # pyright: ignore[reportArgumentType]
    assert "Traceback" in caplog.text
    assert faults.read(made.site("south"))["unforeseen"]["sentence"] == "KeyError: 'P-001 of /data/north.csv'"
    for path in made.run.rglob("*"):
        assert not path.is_file() or b"P-001" not in path.read_bytes()


def test_a_site_that_joins_takes_part_from_the_next_start_on(data: Path, tmp_path: Path) -> None:
    made = federation(tmp_path / "fed", data, sites={"north": str(data / "north")})
    serve(grid_of(made), made, nothing)  # pyright: ignore[reportArgumentType]
    runs.extend(made.run, LONGER)
    add(made.folder, f"south={data / 'south'}")
    later = read(made.folder)
    serve(grid_of(later), later, nothing)  # pyright: ignore[reportArgumentType]
    events = map(json.loads, (made.run / "events.jsonl").read_text().splitlines())
    reported = [event["reported"] for event in events if event["reported"]]
    assert reported[0] == ["north"]
    assert reported[-1] == ["north", "south"]


def test_a_deployed_run_cannot_go_on_without_its_sites(data: Path, tmp_path: Path) -> None:
    made = federation(tmp_path / "fed", data)
    serve(grid_of(made), made, nothing)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="fedbraid deploy run"):
        runs.resume(made.run)


def test_a_method_that_pools_all_samples_is_refused(data: Path, tmp_path: Path) -> None:
    made = federation(tmp_path / "fed", data, "method.name=joint")
    with pytest.raises(UserError, match="pools all samples"):
        serve(grid_of(made), made, nothing)  # pyright: ignore[reportArgumentType]
    assert json.loads((made.folder / "outcome.json").read_text())["outcome"] == "refused"
