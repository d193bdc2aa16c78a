"""A run that is given more tasks: the bits of one that knew them all, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from digit_runs import EQUAL, finished

from fedbraid import config, runs
from fedbraid.errors import UserError

SMALL = [
    "data.train_per_class=8",
    "data.test_per_class=4",
    "partition.clients=2",
    "partition.min_samples=1",
    "training.rounds=1",
    "training.epochs=1",
]
BEGUN, LONGER = ["data.classes=4", "stream.sizes=[2,2]"], ["data.classes=6", "stream.sizes=[2,2,2]"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two tasks."""
    folder = tmp_path_factory.mktemp("runs") / "begun"
    finished(runs.start(config.read("", [*SMALL, *BEGUN]), folder))
    return folder


@pytest.mark.parametrize("kind", ["dirichlet", "iid"])
def test_a_run_extended_later_is_the_run_that_knew_all_tasks(kind: str, tmp_path: Path) -> None:
    settings = [*SMALL, f"partition.kind={kind}", "method.name=fedavg"]
    finished(runs.start(config.read("", [*settings, *BEGUN]), tmp_path / "begun"))
    runs.extend(tmp_path / "begun", LONGER)
    assert not runs.read_results(tmp_path / "begun")["finished"]
    later = finished(runs.resume(tmp_path / "begun"))
    whole = finished(runs.start(config.read("", [*settings, *LONGER]), tmp_path / "whole"))
    assert {key: later[key] for key in EQUAL} == {key: whole[key] for key in EQUAL}


def test_classes_that_sort_before_those_there_are_come_behind_them_all_the_same(tmp_path: Path) -> None:
    first = [*SMALL, 'data.classes=["4","5","6","7"]', "stream.sizes=[2,2]", "method.name=fedavg"]
    finished(runs.start(config.read("", first), tmp_path / "begun"))
    runs.extend(tmp_path / "begun", ["data.classes=8", "stream.sizes=[2,2,4]"])
    later = finished(runs.resume(tmp_path / "begun"))
    assert later["task_classes"] == [["4", "5"], ["6", "7"], ["0", "1", "2", "3"]]
    order = 'stream.order=["4","5","6","7","0","1","2","3"]'
    known = [*first, "data.classes=8", "stream.sizes=[2,2,4]", order]
    assert later["state_sha256"] == finished(runs.start(config.read("", known), tmp_path / "whole"))["state_sha256"]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["training.lr=0.1"], r"training\.lr = 0\.1 would make another run"),
        (["method.name=fedit"], "method.name = 'fedit' would make another run"),
        ([*LONGER, "run.seed=3"], r"run\.seed = 3 would make another run"),
        (["stream.sizes=[3,1]"], "task 0 is 0, 1, and would become 0, 1, 2"),
        (["stream.sizes=[2,2,2]"], "sum to the 4 classes"),
        (["data.classes=2", "stream.sizes=[2]"], "task 1 is 2, 3, and would become nothing"),
        ([*LONGER, 'stream.order=["5","4","3","2","1","0"]'], "task 0 is 0, 1, and would become 5, 4"),
    ],
)
def test_what_is_no_extension_is_refused_and_leaves_the_run_as_it_is(
    settings: list[str], complaint: str, begun: Path
) -> None:
    before = {path.name: path.read_bytes() for path in begun.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=complaint):
        runs.extend(begun, settings)
    assert {path.name: path.read_bytes() for path in begun.iterdir() if path.is_file()} == before


def test_a_paused_run_is_given_other_patience_whatever_its_clients_keep(tmp_path: Path) -> None:
    settings = [*SMALL, *BEGUN, "method.name=derpp"]
    whole = finished(runs.start(config.read("", settings), tmp_path / "whole"))
    events = runs.start(config.read("", settings), tmp_path / "paused").events()
    next(events)
    events.close()
    runs.extend(tmp_path / "paused", ["rounds.quorum=0.5", "rounds.deadline=600"])
    later = runs.resume(tmp_path / "paused")
    assert (later.experiment.config.rounds.quorum, later.experiment.config.rounds.deadline) == (0.5, 600)
    assert finished(later)["state_sha256"] == whole["state_sha256"]


def test_samples_kept_by_number_cannot_be_numbered_anew(tmp_path: Path) -> None:
    finished(runs.start(config.read("", [*SMALL, *BEGUN, "method.name=derpp"]), tmp_path))
    with pytest.raises(UserError, match="keep samples of theirs by number"):
        runs.extend(tmp_path, LONGER)


def test_a_method_that_joins_the_tasks_cannot_be_given_more(tmp_path: Path) -> None:
    finished(runs.start(config.read("", [*SMALL, *BEGUN, "method.name=joint"]), tmp_path))
    with pytest.raises(UserError, match="as one task"):
        runs.extend(tmp_path, LONGER)
