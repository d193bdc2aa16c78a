"""Sites as they are behind Flower, without Flower: bytes in, bytes out, everything else in a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedbraid.algebra import Tensors
from fedbraid.core import Event, Round
from fedbraid.engine import run
from fedbraid.errors import RunError
from fedbraid.local.training import Training
from fedbraid.methods import METHODS, Setting, make
from fedbraid.models import Adapter
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.exchange import spell
from fedbraid.runtimes.holdings import ANSWER, RECEIVED, Holdings
from fedbraid.runtimes.inprocess import InProcess
from fedbraid.runtimes.server import Rules, Server
from fedbraid.testing.numbers import ROUND, SHARED, Squares, holders, squares
from fedbraid.testing.sites import Sites
from fedbraid.testing.worlds import image_world

MODEL: Any = None


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        ("lorm", "lora"),
        ("fedavg", "full"),
        ("fedex_lora", "lora"),
        ("derpp", "lora"),
        ("afl", "none"),
        ("fed_sb", "lora_xs"),
        ("l2p", "prompt"),
    ],
)
def test_a_run_over_sites_is_the_run_in_process(name: str, adapter: Any, tmp_path: Path) -> None:
    options, world = METHODS[name](), image_world()
    adapted = options.adapter(Adapter(adapter, rank=2, blocks="0-1"))
    method = make(options, Setting(adapted, Training(epochs=1, batch_size=16, lr=1e-3, augment=False), 2))
    work = Work(method, world.model(adapted), Codec())

    def events(transport: InProcess) -> list[Event]:
        return list(run(method, work.model, world.tasks, Server(work, transport), seed=0))

    here = events(InProcess(work, world.clients, world.evaluators))
    there = events(Sites(work, world.clients, world.evaluators, tmp_path))
    assert len(here) == len(there)
    for one, other in zip(here, there, strict=True):
        assert one.outcome.bytes_up == other.outcome.bytes_up
        assert one.outcome.bytes_down == other.outcome.bytes_down
        for part in ("shared", "server"):
            expected, found = getattr(one.state, part), getattr(other.state, part)
            assert expected.keys() == found.keys()
            assert all(torch.equal(expected[key], found[key]) for key in expected)


LARGE = SHARED | {"weight": torch.zeros(1000)}


def rounds(folder: Path, phase: Squares | None = None, **options: Any) -> tuple[Server, Squares]:
    phase = phase or Squares()
    work = Work(squares(phase), MODEL, Codec())
    return Server(work, Sites(work, holders({"a": (1.0, 2.0), "b": (3.0,)}), {}, folder), **options), phase


def test_the_same_question_is_answered_twice_and_computed_once(tmp_path: Path) -> None:
    server, phase = rounds(tmp_path)
    first = server.sum(LARGE, ROUND, ["a", "b"])
    again, other = rounds(tmp_path)  # a server that was killed before it could save anything
    second = again.sum(LARGE, ROUND, ["a", "b"])
    assert all(torch.equal(first.total[key], second.total[key]) for key in first.total)
    assert (len(phase.seen), len(other.seen)) == (2, 0)


@pytest.mark.parametrize("damage", ["gone", "cut", "old"])
def test_a_site_that_lost_something_says_so_and_is_sent_everything(damage: str, tmp_path: Path) -> None:
    server, _ = rounds(tmp_path, rules=Rules(retries=1))
    server.sum(LARGE, ROUND, ["a", "b"])
    path = tmp_path / "a" / RECEIVED
    old = path.read_bytes()
    server.sum(LARGE | {"weight": torch.ones(1000)}, Round(ROUND.task, "train", 1, 0), ["a", "b"])
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(old if damage == "old" else path.read_bytes()[:-1])
    changed = {**LARGE, "weight": torch.ones(1000), "scale": torch.tensor([5.0])}
    outcome = server.sum(changed, Round(ROUND.task, "train", 2, 0), ["a", "b"])
    assert outcome.reported == ("a", "b")
    assert outcome.total["sum"].item() == 30.0
    assert outcome.bytes_down["a"] > 4000 > outcome.bytes_down["b"]


def test_a_name_that_now_stands_for_what_is_there_is_found(tmp_path: Path) -> None:
    server, phase = rounds(tmp_path)
    server.sum(LARGE, ROUND, ["a"])
    moved = SHARED | {"kept/0": LARGE["weight"], "weight": torch.ones(3)}
    outcome = server.sum(moved, Round(ROUND.task, "train", 1, 0), ["a"])
    assert outcome.bytes_down["a"] < 1000
    assert {key: tensor.tolist() for key, tensor in phase.seen[-1].items()} == {
        key: tensor.tolist() for key, tensor in moved.items()
    }


def test_what_a_site_keeps_is_in_its_folder_and_not_on_the_wire(tmp_path: Path) -> None:
    class Keeping(Squares):
        def client_update(self, model: Any, shared: Tensors, data: Any, round: Round) -> Tensors:
            seen = data.memory.get("seen", torch.tensor(0))
            return {**super().client_update(model, shared, data, round), "keep/seen": seen + len(data)}

    server, _ = rounds(tmp_path, Keeping())
    for index in range(3):
        server.sum(SHARED, Round(ROUND.task, "train", index, 0), ["a", "b"])
    assert Holdings(tmp_path / "a").kept(spell(Round(ROUND.task, "train", 3, 0)))["seen"].item() == 6
    assert b"seen" not in (tmp_path / "a" / ANSWER).read_bytes()


@pytest.mark.parametrize("back", [1, 2])
def test_a_server_that_went_back_by_one_state_meets_sites_that_are_ahead(back: int, tmp_path: Path) -> None:
    class Keeping(Squares):
        def client_update(self, model: Any, shared: Tensors, data: Any, round: Round) -> Tensors:
            seen = data.memory.get("seen", torch.tensor(0.0))
            return {"x": torch.tensor(data.values) * shared["scale"] + seen, "keep/seen": seen + shared["scale"].sum()}

    def asked(server: Server, index: int) -> Tensors:
        shared = {"scale": torch.tensor([1.0 + index]), "weight": torch.zeros(index + 1)}
        return server.sum(shared, Round(ROUND.task, "train", index, 0), ["a", "b"]).total

    server, _ = rounds(tmp_path, Keeping())
    totals, memories = [], []
    for index in range(5):
        memories.append(server.memory())
        totals.append(asked(server, index))
    again, _ = rounds(tmp_path, Keeping(), memory=memories[5 - back])
    for index in range(5 - back, 5):
        found = asked(again, index)
        assert all(torch.equal(found[key], totals[index][key]) for key in found)


def test_a_site_that_was_killed_before_its_answer_was_written_gives_the_same_answer(tmp_path: Path) -> None:
    holdings = Holdings(tmp_path)
    for number in range(4):
        holdings.answer(f"to {number}", f"round {number}", b"", {"seen": torch.tensor(number)})
    (tmp_path / ANSWER).unlink()
    assert holdings.answered("to 3") is None
    assert holdings.kept("round 3")["seen"].item() == 2
    assert holdings.kept("round 4")["seen"].item() == 3


@pytest.mark.parametrize("cut", [True, False])
def test_what_a_site_keeps_is_not_taken_where_it_is_damaged(cut: bool, tmp_path: Path) -> None:
    holdings = Holdings(tmp_path)
    holdings.answer("to 0", "round 0", b"", {"seen": torch.tensor(1)})
    [path] = tmp_path.glob("*.kept")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content[:-1] if cut else content)
    with pytest.raises(RunError, match=r"000001-.*\.kept is damaged"):
        holdings.kept("round 1")
    assert holdings.kept("round 0") == {}


def test_a_server_that_went_back_too_far_is_told(tmp_path: Path) -> None:
    holdings = Holdings(tmp_path)
    for number in range(5):
        holdings.answer(f"to {number}", f"round {number}", b"", {"seen": torch.tensor(number)})
    assert len(list(tmp_path.glob("*.kept"))) == 3
    assert holdings.kept("round 3")["seen"].item() == 2
    with pytest.raises(RunError, match="the server went back too far"):
        holdings.kept("round 2")
