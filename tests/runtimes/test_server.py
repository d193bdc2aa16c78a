"""Rounds that end: answers in any order, faults, lateness, duplicates, replays, a crash in between."""

import itertools
import random
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from fedbraid.algebra import Tensors
from fedbraid.core import EVALUATE, Outcome, Round
from fedbraid.errors import StoppedRun
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.exchange import Answer
from fedbraid.runtimes.inprocess import InProcess
from fedbraid.runtimes.journal import Journal
from fedbraid.runtimes.server import Rules, Server
from fedbraid.testing.numbers import ROUND, SHARED, holders, squares

VALUES = {str(c): tuple(torch.randn(3, generator=torch.Generator().manual_seed(c)).tolist()) for c in range(5)}
NEXT = Round(ROUND.task, "train", 1, 0)
MODEL: Any = None


class Clock:
    """A clock that goes on when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Scripted(InProcess):
    """Parties whose answers come in a given order, once; a step is a client, seconds of silence, or an answer.

    `asked` holds whom every call asked.
    """

    def __init__(
        self, work: Work, steps: Sequence[str | float | Answer] | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(work, holders(VALUES), holders({"test": (1.0,)}))
        self.steps = steps
        self.asked: list[list[str]] = []
        self._clock = clock or Clock()

    def ask(self, questions: Mapping[str, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        self.asked.append(sorted(questions))
        ready = {a.client: a for a in super().ask(questions, received, round) if a is not None}
        steps, self.steps = self.steps, None
        for step in sorted(ready) if steps is None else steps:
            if isinstance(step, float):
                self._clock.now += step
                yield None
            elif isinstance(step, Answer):
                yield step
            elif step in ready:
                yield ready[step]


def served(
    steps: Sequence[str | float | Answer] | None = None,
    *,
    rules: Rules | None = None,
    journal: Path | None = None,
    **options: Any,
) -> tuple[Server, Scripted]:
    work, clock = Work(squares(), MODEL, Codec()), Clock()
    transport = Scripted(work, steps, clock)
    return Server(work, transport, rules=rules, journal=Journal(journal), clock=clock, **options), transport


def total(clients: Sequence[str]) -> Outcome:
    """The sum over these clients in one go."""
    return served()[0].sum(SHARED, ROUND, clients)


def same(one: Outcome, other: Outcome) -> bool:
    return one.reported == other.reported and all(torch.equal(one.total[key], other.total[key]) for key in other.total)


@pytest.mark.parametrize("stored", [True, False])
def test_the_order_of_answers_changes_no_bit(stored: bool, tmp_path: Path) -> None:
    expected = total(list(VALUES))
    for number, order in enumerate(itertools.islice(itertools.permutations(VALUES), 0, None, 7)):
        server, _ = served(order, journal=tmp_path / str(number) if stored else None)
        assert same(server.sum(SHARED, ROUND, list(VALUES)), expected)


def test_who_is_late_costs_itself_the_round() -> None:
    server, _ = served(["3", "0", 11.0, "4", "1"], rules=Rules(deadline=10, quorum=0.4))
    outcome = server.sum(SHARED, ROUND, list(VALUES))
    assert same(outcome, total(["0", "3"]))
    assert outcome.failed == dict.fromkeys(["1", "2", "4"], "no answer within 10 s")
    assert set(outcome.bytes_down) == set(VALUES)


def test_below_the_quorum_the_run_pauses_and_keeps_what_came(tmp_path: Path) -> None:
    server, _ = served(["3", "0", 11.0], rules=Rules(deadline=10, quorum=0.5), journal=tmp_path)
    with pytest.raises(StoppedRun, match=r"2 of 5 clients answered, 3 are needed .*client 1: no answer within 10 s"):
        server.sum(SHARED, ROUND, list(VALUES))
    again, transport = served(journal=tmp_path)
    assert same(again.sum(SHARED, ROUND, list(VALUES)), total(list(VALUES)))
    assert transport.asked == [["1", "2", "4"]]


def test_what_a_killed_server_received_is_not_asked_for_again(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def tell(what: str, **facts: Any) -> None:
        if facts.get("client") == "1":
            raise Killed

    server, _ = served(["4", "1", "0"], journal=tmp_path, tell=tell)
    with pytest.raises(Killed):
        server.sum(SHARED, ROUND, list(VALUES))
    again, transport = served(journal=tmp_path)
    outcome, expected = again.sum(SHARED, ROUND, list(VALUES)), total(list(VALUES))
    assert same(outcome, expected)
    assert transport.asked == [["0", "2", "3"]]
    assert (outcome.bytes_up, outcome.bytes_down) == (expected.bytes_up, expected.bytes_down)


def test_a_server_killed_in_an_evaluation_still_has_the_round_before_it(tmp_path: Path) -> None:
    exam = Round(ROUND.task, EVALUATE, 0, 0)
    server, _ = served(journal=tmp_path)
    expected = server.sum(SHARED, ROUND, list(VALUES))
    server.sum({**SHARED, "new": torch.ones(1)}, exam, ["test"])
    again, transport = served(journal=tmp_path)
    assert same(again.sum(SHARED, ROUND, list(VALUES)), expected)
    again.sum({**SHARED, "new": torch.ones(1)}, exam, ["test"])
    assert transport.asked == []


def test_the_journal_holds_the_answers_to_two_questions_at_most(tmp_path: Path) -> None:
    server, _ = served(journal=tmp_path)
    for index in range(4):
        server.sum(SHARED, Round(ROUND.task, "train", index, 0), list(VALUES))
        assert len(list(tmp_path.iterdir())) == 5 * min(index + 1, 2)


@pytest.mark.parametrize("retries", [0, 1])
def test_who_says_without_end_that_it_lost_what_it_was_sent_is_asked_once_more(retries: int) -> None:
    server, transport = served(rules=Rules(quorum=0.5, retries=retries))
    asked: list[list[str]] = []

    def ask(questions: Mapping[str, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        asked.append(sorted(questions))
        for client, question in questions.items():
            to = Codec().text(question)["to"]
            yield Answer(client, Codec().encode({}, {"client": client, "to": to, "is": "lost"}))

    transport.ask = ask  # type: ignore[method-assign]
    with pytest.raises(StoppedRun, match="it has lost what it was sent before"):
        server.sum(SHARED, ROUND, ["0", "1"])
    assert asked == [["0", "1"], ["0", "1"]]


@pytest.mark.parametrize("change", ["flip", "cut", "empty", "round"])
def test_a_damaged_or_foreign_journal_is_asked_for_again(change: str, tmp_path: Path) -> None:
    server, _ = served(["2", 11.0], rules=Rules(deadline=10), journal=tmp_path)
    with pytest.raises(StoppedRun):
        server.sum(SHARED, ROUND, list(VALUES))
    [path] = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= change == "flip"
    path.write_bytes({"cut": content[:-1], "empty": b""}.get(change, content))
    again, transport = served(journal=tmp_path)
    again.sum(SHARED, NEXT if change == "round" else ROUND, list(VALUES))
    assert transport.asked == [list(VALUES)]


def test_the_same_answer_twice_counts_once() -> None:
    server, _ = served(["0", "0", "1", "0", "2", "3", "4", "4"])
    assert same(server.sum(SHARED, ROUND, list(VALUES)), total(list(VALUES)))


def test_an_answer_of_another_round_or_client_is_refused() -> None:
    kept: list[Answer] = []
    server, transport = served()
    inner = transport.ask

    def recording(questions: Mapping[str, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        for found in inner(questions, received, round):
            if found and round == ROUND:
                kept.append(found)
            yield (
                {"1": kept[1], "2": Answer("2", found.payload)}.get(found.client, found)
                if found and round == NEXT
                else found
            )

    transport.ask = recording  # type: ignore[method-assign]
    server.sum(SHARED, ROUND, list(VALUES))
    outcome = Server(Work(squares(), MODEL, Codec()), transport, rules=Rules(quorum=0.5)).sum(
        SHARED, NEXT, list(VALUES)
    )
    assert list(outcome.refused) == ["1"]
    assert outcome.refused["1"].rule == "an answer to this question"
    assert outcome.reported == ("0", "2", "3", "4")


@pytest.mark.parametrize("payload", [b"", b"x", b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}"])
def test_a_message_that_is_none_is_refused(payload: bytes) -> None:
    server, _ = served(["0", "1", Answer("2", payload), "2", "3", "4"], rules=Rules(quorum=0.5))
    outcome = server.sum(SHARED, ROUND, list(VALUES))
    assert same(outcome, total(["0", "1", "3", "4"]))
    assert "refused client 2" in str(outcome.refused["2"])


def test_who_failed_is_asked_again_with_everything() -> None:
    server, transport = served(rules=Rules(retries=1))
    large = SHARED | {"weight": torch.zeros(1000)}
    server.sum(large, ROUND, list(VALUES))
    transport.steps = [Answer("0", fault="gone"), "1", "2", "3", "4"]
    outcome = server.sum(large, NEXT, list(VALUES))
    assert outcome.reported == tuple(VALUES)
    assert transport.asked[1:] == [list(VALUES), ["0"]]
    assert outcome.bytes_down["0"] > 4000 > outcome.bytes_down["1"]
    assert not outcome.failed


def test_500_rounds_of_trouble_end_in_time_with_exactly_what_came() -> None:
    draw = random.Random(0)
    for _ in range(500):
        clock = Clock()
        steps: list[str | float | Answer] = []
        arrived: set[str] = set()
        late = False
        elapsed = 0.0
        for client in draw.sample(sorted(VALUES), 5):
            kind = draw.choice(["answer", "answer", "drop", "stall", "twice", "fault"])
            if kind == "stall":
                pause = draw.uniform(0, 8)
                elapsed += pause
                late = late or elapsed >= 10
                steps += [pause, client]
            elif kind == "fault":
                steps.append(Answer(client, fault="died"))
            elif kind != "drop":
                steps += [client] * (2 if kind == "twice" else 1)
            if kind in ("answer", "twice", "stall") and not late:
                arrived.add(client)
        work = Work(squares(), MODEL, Codec())
        server = Server(work, Scripted(work, steps, clock), rules=Rules(deadline=10, quorum=0.4), clock=clock)
        if len(arrived) < 2:
            with pytest.raises(StoppedRun):
                server.sum(SHARED, ROUND, list(VALUES))
        else:
            assert same(server.sum(SHARED, ROUND, list(VALUES)), total(sorted(arrived)))
        assert clock.now < 18 + 1e-9


class Counted(str):
    """A client's id that counts how often any of its kind is looked up."""

    lookups = 0

    def __hash__(self) -> int:
        Counted.lookups += 1
        return super().__hash__()


class Backwards(InProcess):
    """Answers come from the last client on, after all but every third have failed once."""

    def ask(self, questions: Mapping[str, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        for place, answer in reversed([*enumerate(super().ask(questions, received, round))]):
            assert answer
            yield Answer(answer.client, fault="died") if len(questions) == len(self.clients) and place % 3 else answer


def test_a_client_costs_as_many_look_ups_whatever_their_number() -> None:
    def lookups(count: int) -> float:
        clients = [Counted(f"{number:03}") for number in range(count)]
        work = Work(squares(), MODEL, Codec())
        server = Server(work, Backwards(work, holders(dict.fromkeys(clients, (1.0,))), {}), rules=Rules(retries=1))
        before = Counted.lookups
        assert server.sum(SHARED, ROUND, clients).reported == tuple(clients)
        return (Counted.lookups - before) / count

    assert lookups(300) == pytest.approx(lookups(30), rel=0.01)
