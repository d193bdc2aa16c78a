"""Masked rounds over sites: between questions a site has its own disk alone, where secrets lie as long as needed."""

from __future__ import annotations

import stat
from collections.abc import Generator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")

from fedbraid.algebra import Tensors
from fedbraid.core import Event, ImageInput, Model, Outcome, Round
from fedbraid.engine import run
from fedbraid.errors import StoppedRun
from fedbraid.local.training import Training
from fedbraid.methods import METHODS, Setting, make
from fedbraid.models import Adapter
from fedbraid.quantities import VALUE, Gives
from fedbraid.runtimes.client import Masking, Work
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.exchange import Answer, spell
from fedbraid.runtimes.holdings import RECEIVED, Holdings
from fedbraid.runtimes.inprocess import InProcess
from fedbraid.runtimes.masked_client import INPUT
from fedbraid.runtimes.masked_state import STATE, OnDisk
from fedbraid.runtimes.server import Rules, Server
from fedbraid.testing.numbers import ROUND, SHARED, Squares, holders, squares
from fedbraid.testing.sites import Sites
from fedbraid.testing.worlds import image_world

VALUES = {str(c): (c + 0.5, c / 4) for c in range(4)} | {"4": ()}
MODEL: Any = SimpleNamespace(device=torch.device("cpu"), input=ImageInput(2))
LOOSE = Rules(quorum=0.5)


class Keeping(Squares):
    """Squares of which there can be a dry run, as if of trained values; clients count the samples they have seen."""

    def gives(self, round: Round, *, lifted: bool = False) -> Gives:
        return super().gives(round, lifted=lifted) if lifted else {"x": VALUE}

    def client_update(self, model: Model, shared: Tensors, data: Any, round: Round) -> Tensors:
        values = getattr(data, "values", (0.0,) * len(data))
        seen = data.memory.get("seen", torch.tensor(0)) + len(data)
        return {"x": torch.tensor(values, dtype=torch.float64) * shared["scale"].double(), "keep/seen": seen}


class Watched(Sites):
    """Sites at which something happens after a step was taken; `lost` are (step, client) whose answer is lost once."""

    def __init__(self, folder: Path, threshold: int | None = 3) -> None:
        work = Work(squares(Keeping()), MODEL, Codec(), masking=Masking(threshold))
        super().__init__(work, holders(VALUES), {}, folder)
        self.work, self.folder = work, folder
        self.lost: set[tuple[str, str]] = set()
        self.modes: set[int] = set()
        self.happens: Any = lambda step, client: None

    def ask(self, questions: Mapping[str, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        for found in super().ask(questions, received, round):
            if found is None:
                continue
            step = self.work.codec.text(questions[found.client])["step"]
            path = self.folder / found.client / STATE
            if path.is_file():
                self.modes.add(stat.S_IMODE(path.stat().st_mode))
            self.happens(step, found.client)
            if (step, found.client) in self.lost:
                self.lost.discard((step, found.client))
            else:
                yield found

    def server(self, rules: Rules = LOOSE, **options: Any) -> Server:
        return Server(self.work, self, rules=rules, **options)


def same(one: Outcome, other: Outcome) -> bool:
    return one.reported == other.reported and all(torch.equal(one.total[key], other.total[key]) for key in other.total)


def seen(folder: Path, index: int = 1) -> list[int]:
    """What the sites have kept when the round of this number is asked for."""
    later = spell(Round(ROUND.task, "train", index, 0))
    return [int(Holdings(folder / c).kept(later).get("seen", torch.tensor(0)).item()) for c in VALUES]


def test_secrets_lie_in_the_sites_own_file_until_the_sum_is_open(tmp_path: Path) -> None:
    sites = Watched(tmp_path)
    outcome = sites.server().sum(SHARED, ROUND, list(VALUES))
    assert outcome.reported == tuple(VALUES)
    assert sites.modes == {0o600}
    for client in VALUES:
        assert OnDisk(tmp_path / client, tmp_path / client).read().stage is None
        assert b"sealing" not in (tmp_path / client / STATE).read_bytes()
    assert seen(tmp_path) == [2, 2, 2, 2, 0]


@pytest.mark.parametrize("step", ["keys", "shares", INPUT, "reveal"])
def test_a_lost_answer_is_given_again_and_no_step_is_taken_twice(step: str, tmp_path: Path) -> None:
    sites = Watched(tmp_path)
    sites.lost = {(step, "0"), (step, "3")}
    outcome = sites.server(Rules(quorum=1.0, retries=1)).sum(SHARED, ROUND, list(VALUES))
    assert same(outcome, Watched(tmp_path / "other").server().sum(SHARED, ROUND, list(VALUES)))
    assert seen(tmp_path) == [2, 2, 2, 2, 0]


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_site_that_lost_its_secrets_is_lost_and_takes_part_again(damage: str, tmp_path: Path) -> None:
    sites = Watched(tmp_path)

    def happens(step: str, client: str) -> None:
        path = tmp_path / "2" / STATE
        if (step, client) == ("shares", "2"):
            path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:-1])

    sites.happens = happens
    outcome = sites.server().sum(SHARED, ROUND, list(VALUES))
    assert outcome.reported == ("0", "1", "3", "4")
    assert ("holds nothing" if damage == "gone" else f"{STATE} is damaged; remove it") in outcome.failed["2"]
    sites.happens = lambda step, client: None
    (tmp_path / "2" / STATE).unlink(missing_ok=True)
    later = {"scale": torch.tensor([3.0])}
    assert len(sites.server().sum(later, Round(ROUND.task, "train", 1, 0), list(VALUES)).reported) == 5


@pytest.mark.parametrize("after", ["", "shares"])
def test_a_site_that_lost_what_it_was_sent_is_sent_it_again(after: str, tmp_path: Path) -> None:
    sites = Watched(tmp_path)
    sites.server().sum(SHARED, ROUND, list(VALUES))
    received = tmp_path / "2" / RECEIVED

    def happens(step: str, client: str) -> None:
        if (step, client) == (after, "2"):
            received.unlink()

    sites.happens = happens
    if not after:
        received.unlink()
    outcome = sites.server().sum(SHARED, Round(ROUND.task, "train", 1, 0), list(VALUES))
    assert outcome.reported == tuple(VALUES)


@pytest.mark.parametrize("at", ["keys", "shares", INPUT, "reveal"])
def test_a_server_that_was_killed_begins_the_round_anew(at: str, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def happens(step: str, client: str) -> None:
        if (step, client) == (at, "1"):
            raise Killed

    sites = Watched(tmp_path)
    sites.happens = happens
    with pytest.raises(Killed):
        sites.server().sum(SHARED, ROUND, list(VALUES))
    outcome = Watched(tmp_path).server().sum(SHARED, ROUND, list(VALUES))
    assert same(outcome, Watched(tmp_path / "other").server().sum(SHARED, ROUND, list(VALUES)))
    assert seen(tmp_path) == [2, 2, 2, 2, 0]  # asked twice for the round, a site has seen its samples once
    Watched(tmp_path).server().sum(SHARED, Round(ROUND.task, "train", 1, 0), list(VALUES))
    assert seen(tmp_path, 2) == [4, 4, 4, 4, 0]


def test_a_site_opens_no_second_sum_of_a_round_with_others(tmp_path: Path) -> None:
    Watched(tmp_path).server().sum(SHARED, ROUND, list(VALUES))
    killed = Watched(tmp_path)
    killed.lost = {(INPUT, "0")}
    with pytest.raises(StoppedRun, match="has opened one of this round before, with other clients"):
        killed.server().sum(SHARED, ROUND, list(VALUES))


def test_a_site_answers_in_no_other_way_and_not_below_its_own_threshold(tmp_path: Path) -> None:
    sites = Watched(tmp_path, threshold=5)
    clear = Work(squares(Keeping()), MODEL, Codec())
    with pytest.raises(StoppedRun, match="client '0' takes part in masked sums alone"):
        Server(clear, _asked_by(sites), rules=LOOSE).sum(SHARED, ROUND, list(VALUES))
    lower = Work(squares(Keeping()), MODEL, Codec(), masking=Masking(3))
    with pytest.raises(StoppedRun, match="the server's threshold is 3 of 5, its own settings ask for 5 or more"):
        Server(lower, sites, rules=LOOSE).sum(SHARED, ROUND, list(VALUES))
    named = Work(squares(Keeping()), MODEL, Codec(), masking=Masking(5, dict.fromkeys(VALUES, bytes(32))))
    with pytest.raises(StoppedRun, match="the server names other identities than its settings"):
        Server(named, sites, rules=LOOSE).sum(SHARED, ROUND, list(VALUES))
    with pytest.raises(StoppedRun, match="has no masked mode in its settings"):
        Server(lower, Sites(clear, holders(VALUES), {}, tmp_path), rules=LOOSE).sum(SHARED, ROUND, list(VALUES))


def _asked_by(sites: Watched) -> Sites:
    """The same sites, asked in clear."""
    return Sites(sites.work, holders(VALUES), {}, sites.folder)


@pytest.mark.parametrize(("name", "adapter"), [("lorm", "lora"), ("derpp", "lora"), ("afl", "none")])
def test_a_masked_run_over_sites_is_the_run_in_process(name: str, adapter: Any, tmp_path: Path) -> None:
    options, world = METHODS[name](), image_world()
    adapted = options.adapter(Adapter(adapter, rank=2, blocks="0-1"))
    method = make(options, Setting(adapted, Training(epochs=1, batch_size=16, lr=1e-3, augment=False), 1))
    work = Work(method, world.model(adapted), Codec(), masking=Masking())

    def events(transport: InProcess) -> list[Event]:
        return list(run(method, work.model, world.tasks, Server(work, transport), seed=0, evaluate="task"))

    here = events(InProcess(work, world.clients, world.evaluators))
    there = events(Sites(work, world.clients, world.evaluators, tmp_path))
    for one, other in zip(here, there, strict=True):
        assert one.outcome.bytes_up == other.outcome.bytes_up
        assert one.outcome.bytes_down == other.outcome.bytes_down
        for part in ("shared", "server"):
            expected, found = getattr(one.state, part), getattr(other.state, part)
            assert expected.keys() == found.keys()
            assert all(torch.equal(expected[key], found[key]) for key in expected)
