"""What methods declare of what they send: found out when a method is made, and true in every report of what left."""

import json
from pathlib import Path

import pytest
from digit_runs import finished, small

from fedbraid import runs
from fedbraid.errors import StoppedRun, UserError
from fedbraid.experiment import build
from fedbraid.privacy import guard as guards
from fedbraid.privacy.guard import FILE

MINE = """
from dataclasses import dataclass, replace
from typing import ClassVar
import torch
from fedbraid.api import About, Measure, Measured, Method, Options, Setting, averaging, carried, linalg
from fedbraid.api import quantities as q

def measure(model, values, data, round):
    x = -torch.ones(len(data), 96, dtype=torch.float64)
    gram = linalg.to_triangle(x.T @ x)
    return {SENT}

@dataclass(frozen=True)
class Mine(Options):
    about: ClassVar[About] = About("mine", "Mine", "mine", "mine", "sums", adapters=("none",))

    def build(self, setting: Setting) -> Method:
        mine = Measured(measure, {GIVES})
        train = averaging(setting)
        if "{PLACE}" == "measure":
            return carried("mine", setting, {"train": train, "mine": Measure(mine)})
        return carried("mine", setting, {"train": replace(train, {PLACE}=mine)})
"""
PLACES = ("sums", "measures", "measure")


@pytest.fixture
def mine(tmp_path: Path):
    """The settings of a small run of a method that sends this and declares that."""

    def settings(sent: str, gives: str, place: str, *more: str):
        text = MINE.replace("{SENT}", sent).replace("{GIVES}", gives).replace("{PLACE}", place)
        file = tmp_path / f"mine_{abs(hash(text))}.py"
        file.write_text(text)
        return small(f"method.name={file}:Mine", "partition.clients=2", *more)

    return settings


@pytest.mark.parametrize("place", PLACES)
def test_a_gram_on_few_samples_stays_wherever_it_is_sent(place: str, mine, tmp_path: Path) -> None:
    settings = mine('{"triangle/x": gram}', '{"triangle": q.GRAM}', place, "privacy.small_grams=refuse")
    with pytest.raises(UserError, match=r"task 1, (train|mine): a gram needs 96 samples"):
        runs.start(settings, tmp_path / "run")
    experiment = build(settings).guarded(tmp_path)
    name = "beside/triangle/x" if place == "sums" else "triangle/x"
    with pytest.raises(StoppedRun, match=rf"the Gram of '{name}' would be taken on \d+ samples and leave this client"):
        list(experiment.events())
    assert not any(part["kind"] == "gram" for entry in guards.read(tmp_path / FILE) for part in entry["parts"])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["triangle/x", "drift", "my_count"])
def test_what_is_not_declared_is_an_error_before_the_run(name: str, place: str, mine, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"measure measures '{name}', which is not declared; declared are diagonal"):
        runs.start(mine(f'{{"{name}": gram}}', '{"diagonal": q.DIAGONAL}', place), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "name", ["values", "vectors", "fisher", "diagonal", "triangle", "head", "metric", "client", "keep"]
)
def test_a_reserved_name_is_an_error_when_the_method_is_made(name: str, place: str, mine) -> None:
    with pytest.raises(
        UserError, match=f"what measure measures declares '{name}' as a sum, .* These names are taken: "
    ):
        build(mine(f'{{"{name}/bias": gram}}', f'{{"{name}": q.SUM}}', place))


def test_what_no_merge_reads_is_not_measured_for_it(mine) -> None:
    with pytest.raises(UserError, match="the merge Mean does not read 'drift', which is measured for it"):
        build(mine('{"drift": gram}', '{"drift": q.SUM}', "measures"))


@pytest.mark.parametrize("place", ["sums", "measure"])
@pytest.mark.parametrize("name", ["my_count", "tokens", "samples", "second/bias", "correct", "total"])
def test_other_names_hold_any_numbers(name: str, place: str, mine, tmp_path: Path) -> None:
    kind = name.split("/")[0]
    run = runs.start(mine(f'{{"{name}": -gram}}', f'{{"{kind}": q.SUM}}', place), tmp_path / "run")
    assert finished(run)["finished"]
    parts = [part for entry in guards.read(run.folder / FILE) for part in entry["parts"] if part["kind"] == kind]
    (part,) = (part for part in parts if part["numbers"] > 20)
    assert part["discloses"].startswith("a sum over the client's samples that the method defines")


def test_a_gram_must_be_laid_out_as_it_is_declared(mine) -> None:
    with pytest.raises(UserError, match=r"'beside/mine' is declared as gram \(square\), which is a square"):
        build(mine('{"mine": gram}', '{"mine": q.SQUARE_GRAM}', "sums"))


def labels(name: str, folder: Path) -> dict[str, set[tuple[str, str]]]:
    """(label, first name) of all parts of what left, by phase."""
    run = runs.start(small(f"method.name={name}"), folder / name)
    finished(run)
    text = (run.folder / FILE).read_text()
    assert "nothing is known" not in text
    assert all(part["discloses"] for entry in json.loads(text)["messages"] for part in entry["parts"])
    found: dict[str, set[tuple[str, str]]] = {}
    for entry in guards.read(run.folder / FILE):
        found.setdefault(entry["phase"], set()).update((p["kind"], p["names"][0]) for p in entry["parts"])
    return found


def test_the_report_is_true_of_class_sums_and_prototypes(tmp_path: Path) -> None:
    proto = labels("fedproto", tmp_path)["train"]
    assert {("class counts", "beside/count"), ("class moments", "beside/first"), ("count", "count")} <= proto
    own = {kind: name for kind, name in labels("pilora", tmp_path)["train"] if "/client/" in name}
    assert own.keys() == {"prototypes", "class counts", "class moments"}
