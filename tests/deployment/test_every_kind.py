"""Every kind of data with every kind of emptiness over every transport: the numbers of one process on the union."""

from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="the extra 'flower' is not installed")
pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")

from every_kind import HELD, KINDS, SMALL, write
from small_federations import grid_of

from fedbraid import config, runs
from fedbraid.deployment.commands import init
from fedbraid.deployment.serving import serve
from fedbraid.testing import random_bert, random_llama

EQUAL = ("state_sha256", "faa", "accuracy_matrix", "scores")
pytestmark = pytest.mark.usefixtures("identity")


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    text = str(random_bert(folder / "text"))
    return {
        "image": "tiny",
        "prompts": str(random_llama(folder / "prompts")),
        **dict.fromkeys(("text", "pair", "numbers"), text),
    }


def settings(kind: str, backbones: dict[str, str], *more: str) -> list[str]:
    return [*SMALL, *KINDS[kind], f"backbone.name={backbones[kind]}", *more]


def in_one_place(folder: Path, given: list[str], runtime: str = "inprocess") -> dict:
    """The results of the run on the union, whose clients are told by a column."""
    placed = [f"data.name={folder / 'union'}", "partition.kind=natural", f"run.runtime={runtime}"]
    run = runs.start(config.read("", [*given, *placed]), folder / runtime)
    for _ in run.events():
        pass
    return runs.read_results(run.folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("empty", HELD)
def test_sites_compute_what_one_process_does(kind: str, empty: str, backbones: dict[str, str], tmp_path: Path) -> None:
    held = HELD[empty]
    write(tmp_path, kind, held)
    given = settings(kind, backbones)
    whole = in_one_place(tmp_path, given)
    terms = {"address": "127.0.0.1:9092", "evaluate": held.evaluate, "wait": 0}
    sites = [f"{site}={tmp_path / site}" for site in held.train]
    made = init(tmp_path / "fed", config.read("", [*given, f"data.name={tmp_path / 'server'}"]), sites, terms)
    serve(grid_of(made), made, lambda _text: None)  # pyright: ignore[reportArgumentType]
    found = runs.read_results(made.run)
    assert found["finished"]
    assert {key: found.get(key) for key in EQUAL} == {key: whole.get(key) for key in EQUAL}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_flowers_simulation_does_too(kind: str, backbones: dict[str, str], tmp_path: Path) -> None:
    write(tmp_path, kind, HELD["a client with one sample"])
    here, there = (in_one_place(tmp_path, settings(kind, backbones), runtime) for runtime in ("inprocess", "flower"))
    assert {key: there.get(key) for key in EQUAL} == {key: here.get(key) for key in EQUAL}
