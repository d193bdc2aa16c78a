"""Replies whose parts do not come keep nobody from looking at the clock."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("flwr", reason="the extra 'flower' is not installed")

from flwr.supercore.task_identity import TaskIdentity

from fedbraid.runtimes.flower import OverGrid
from fedbraid.runtimes.pulling import Pulling


class Stuck:
    """A grid whose calls for replies last until they may end."""

    def __init__(self) -> None:
        self.calls: list[Sequence[str]] = []
        self.may_end = threading.Event()

    def pull_messages(self, names: Sequence[str]) -> list[Any]:
        self.calls.append(names)
        assert self.may_end.wait(30)
        return list(names)


def test_a_call_that_lasts_is_waited_for_a_moment_and_not_made_twice() -> None:
    grid: Any = Stuck()
    pulling = Pulling(grid, 0.01)
    assert [pulling.look(["a"]) for _ in range(3)] == [[], [], []]
    grid.may_end.set()
    found = itertools.chain.from_iterable(pulling.look(["a"]) for _ in itertools.count())
    assert next(found) == "a"
    assert grid.calls == [["a"]]
    assert pulling.look(["b"]) == ["b"]


def test_an_error_of_the_grid_is_raised_where_replies_are_looked_for() -> None:
    def pull_messages(_names: Sequence[str]) -> None:
        raise ValueError("the grid is gone")

    grid: Any = SimpleNamespace(pull_messages=pull_messages)
    with pytest.raises(ValueError, match="the grid is gone"):
        Pulling(grid, 30.0).look(["a"])


def test_a_round_comes_by_the_clock_while_an_answer_is_being_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    grid: Any = Stuck()
    grid.get_node_ids = lambda: [7]
    grid.push_messages = named
    transport = OverGrid(SimpleNamespace(open=lambda: grid, close=lambda: None), ["north"], None)
    transport._names = {7: "north"}
    round: Any = SimpleNamespace(phase="train")
    with closing(transport.ask({"north": b"question"}, {}, round)) as coming:
        assert [next(coming) for _ in range(3)] == [None, None, None]
    grid.may_end.set()


def named(messages: Sequence[Any]) -> list[str]:
    """Gives messages their names, as the server does that takes them."""
    for number, message in enumerate(messages):
        message.metadata.__dict__["_message_id"] = f"message-{number}"
    return [message.metadata.message_id for message in messages]
