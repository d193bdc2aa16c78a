"""A server that lies to honest clients of a masked sum, and what it would have of two sums."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")

from fedbraid.algebra import Statistic, Tensors
from fedbraid.core import ImageInput, Model, Outcome, Round, Task
from fedbraid.errors import RunError, StoppedRun
from fedbraid.quantities import SAMPLES, SUM, VALUE, Gives
from fedbraid.runtimes.client import Masking, Work
from fedbraid.runtimes.codec import Codec, Message
from fedbraid.runtimes.exchange import Answer, read_round, spell
from fedbraid.runtimes.inprocess import InProcess
from fedbraid.runtimes.server import Rules, Server
from fedbraid.secure import new_identity
from fedbraid.testing.numbers import SHARED, Squares, squares
from fedbraid.testing.sites import Sites

VALUES = {str(c): (c + 0.5, c / 4) for c in range(5)}
VICTIM = "3"
ALL, OTHERS = sorted(VALUES), [client for client in sorted(VALUES) if client != VICTIM]
PAIRS = {client: new_identity() for client in VALUES}
PUBLIC = {client: public for client, (_, public) in PAIRS.items()}
PRIVATE = {client: private for client, (private, _) in PAIRS.items()}
MODEL: Any = SimpleNamespace(device=torch.device("cpu"), input=ImageInput(2))

Lie = Callable[[str, Message], Message]
"""What becomes of a question to a client on its way."""


class ByRound(Squares):
    """Squares that are others in every round, as if of trained values."""

    def gives(self, round: Round, *, lifted: bool = False) -> Gives:
        return super().gives(round, lifted=lifted) if lifted else {"x": VALUE}

    def client_update(self, model: Model, shared: Tensors, data: Any, round: Round) -> Tensors:
        values = torch.tensor(getattr(data, "values", (0.0,) * len(data)), dtype=torch.float64)
        return {"x": values * shared["scale"].double() * self.factor(round)}

    def factor(self, round: Round) -> int:
        return 1 + round.index + 10 * round.task.index + 100 * round.seed


class Split(ByRound):
    """Sums of two parts of the numbers, cut anew in every round: together they are the same, as those of a ridge."""

    def gives(self, round: Round, *, lifted: bool = False) -> Gives:
        return {"x": SUM} if not lifted else {"count": SAMPLES, "fit": SUM, "held": SUM}

    def factor(self, round: Round) -> int:
        return 1 + round.task.index

    def lift(self, shared: Tensors, update: Tensors, round: Round) -> Statistic:
        x, cut = update["x"].double(), (round.index + round.seed) % 2
        return Statistic({"count": torch.tensor(len(x)), "fit": x[cut:].sum(), "held": x[:cut].sum()})


class Constant(ByRound):
    """Squares that are the same in every round."""

    def factor(self, round: Round) -> int:
        return 1


def work_of(phase: Squares | None = None, *, signed: bool = True, terms: str = "") -> Work:
    masking = Masking(4, PUBLIC if signed else {}, terms)
    return Work(squares(phase or ByRound()), MODEL, Codec(), masking=masking)


def truth(client: str, message: Message) -> Message:
    return message


class Lied:
    """A transport whose server lies; `works` are those of clients that were told of other settings than the rest."""

    lie: Lie = staticmethod(truth)
    works: Mapping[str, Work] = {}
    _work: Work

    def ask(self, questions: Mapping[str, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        usual = self._work
        for client, question in questions.items():
            message = self.lie(client, usual.codec.decode(question))
            self._work = self.works.get(client, usual)
            asked, given = {client: usual.codec.encode(message.tensors, message.text)}, {**received, **message.tensors}
            yield from super().ask(asked, given, read_round(message.text["round"]))  # type: ignore[misc]
            self._work = usual


class Memory(Lied, InProcess):
    pass


class Folders(Lied, Sites):
    pass


class Carried(Sites):
    """The same sites behind a grid: questions and answers are Flower's messages."""

    def ask(self, questions: Mapping[str, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        from small_federations import Grid, Node

        from fedbraid.runtimes.envelope import whole
        from fedbraid.runtimes.flower import OverGrid

        def node(client: str) -> Node:
            def answer(question: bytes) -> bytes:
                (found,) = filter(None, super(Carried, self).ask({client: question}, received, round))
                if found.fault:
                    raise RunError(found.fault)
                return found.payload

            named = json.dumps({"client": client}).encode()
            return Node(client, lambda _: named, answer, lambda: b"", whole)

        grid = Grid({number: node(client) for number, client in enumerate(sorted(questions), 1)})
        opened: Any = SimpleNamespace(open=lambda: grid, close=lambda: None)
        yield from OverGrid(opened, sorted(questions), None, registered=True).ask(questions, received, round)


class OverFlower(Lied, Carried):
    pass


def summed(transport: Any, round: Round, clients: Sequence[str] = ALL, shared: Tensors = SHARED, **how: Any) -> Outcome:
    return Server(transport._work, transport, rules=Rules(quorum=0.5), **how).sum(shared, round, list(clients))


THIS_ROUND = "it has opened one of this round before, with other clients"


def assert_all(reasons: Mapping[str, str], said: str) -> None:
    """Every client but the one who is singled out refuses for this reason."""
    assert sorted(reasons) == OTHERS
    assert all(said in reason for reason in reasons.values()), reasons


def refused(transport: Any, *asked: Any, **how: Any) -> dict[str, str]:
    """Why clients refuse a sum, of which nothing comes."""
    reasons: dict[str, str] = {}

    def tell(what: str, **about: Any) -> None:
        if what == "failed":
            reasons.setdefault(about["client"], about["reason"])

    with pytest.raises(StoppedRun, match="nothing was summed"):
        summed(transport, *asked, tell=tell, **how)
    return reasons


def at(index: int = 0, task: int = 0, seed: int = 0) -> Round:
    return Round(Task(task, (0, 2, 4)), "train", index, seed)


def naming(round: Round, *steps: str) -> Lie:
    """Another round is named in these steps."""

    def lie(client: str, message: Message) -> Message:
        named = {"round": spell(round)} if message.text["step"] in steps else {}
        return Message(message.tensors, {**message.text, **named})

    return lie


def stolen(first: Outcome, second: Outcome) -> dict[str, float]:
    """What a server has of client 3 where one sum is with it and the other without."""
    return {key: (first.total[key] - second.total[key]).item() for key in first.total}
