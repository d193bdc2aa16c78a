"""Many clients: what a round takes of the server by client, which should not depend on how many there are.

python benchmarks/many_clients.py [--clients 200,2000,6000,20000] [--masked 50,100,200] [--rounds 3]

Clients are messages made in memory: updates of 4 or 64 KB, in the order of client ids, the other way round, or drawn.
The server does all it does in a run: questions, gate, sums in the order of ids, log of activity, record and state on
disk after every round. Each row is a process of its own: the median processor time of a round by client, without what
making the answers takes, and the peak of memory above that of before the rounds.

    updates    answers that lie in memory until it is their turn; `on disk` where the journal is
    failing    of thirty clients one is silent, one fails and one sends what the gate refuses; two are asked again
    grid       the same behind Flower's grid, of which a part in memory stands in: replies become ready a few at a time;
               also how many messages are asked for by answer
    keeping    clients that compute in this process and keep something between rounds, all of it
    masked     masked sums, a twentieth of the clients lost after sharing; each deals shares to each, so that its time
               grows with the number of clients by its nature
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from long_run import in_own_process, resident

from fedbraid import checkpoint
from fedbraid.activity import Activity
from fedbraid.algebra import Statistic, Tensors
from fedbraid.checkpoint import Checkpoint
from fedbraid.core import KEEP, ImageInput, Model, Round, State, Task
from fedbraid.engine import run
from fedbraid.log import Log
from fedbraid.quantities import SAMPLES, SUM, VALUE, Gives
from fedbraid.reports import records
from fedbraid.runtimes import flower
from fedbraid.runtimes.client import Masking, Work
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.envelope import replied, unpack
from fedbraid.runtimes.exchange import UPDATE, Answer, Transport
from fedbraid.runtimes.gate import Gate
from fedbraid.runtimes.inprocess import InProcess
from fedbraid.runtimes.journal import Journal
from fedbraid.runtimes.rules import Rules
from fedbraid.runtimes.server import Server
from fedbraid.testing.numbers import Squares, holders, squares

MODEL: Any = SimpleNamespace(device=torch.device("cpu"), input=ImageInput(2))
TASKS = [Task(0, (0, 2))]
RULES = Rules(deadline=3600, quorum=0.5, retries=1)
READY = 50
"""Replies that become ready between two looks at the grid."""
ORDERS: Mapping[str, Callable[[list[str]], Sequence[str]]] = {
    "in order": lambda names: names,
    "reversed": lambda names: names[::-1],
    "drawn": lambda names: random.Random(0).sample(names, len(names)),
}


class Mean(Squares):
    """Clients send values, the server takes their mean; a client may keep a number for itself."""

    def __init__(self, numbers: int, rounds: int, keeps: bool = False) -> None:
        super().__init__(rounds=rounds, evaluated=False)
        self.numbers = numbers
        self.keeps = keeps

    def gives(self, round: Round, *, lifted: bool = False) -> Gives:  # noqa: ARG002
        return {"x": SUM if lifted else VALUE, "count": SAMPLES}

    def client_update(self, model: Model, shared: Tensors, data: Any, round: Round) -> Tensors:  # noqa: ARG002
        kept = {f"{KEEP}/seen": torch.ones(1)} if self.keeps else {}
        return {"x": torch.full((self.numbers,), 0.5), "count": torch.tensor(float(len(data))).double(), **kept}

    def lift(self, shared: Tensors, update: Tensors, round: Round) -> Statistic:  # noqa: ARG002
        return Statistic({"x": update["x"].double() * update["count"], "count": update["count"]})

    def watch(self, shared: Tensors, update: Tensors, round: Round) -> Statistic:  # noqa: ARG002
        return Statistic()

    def server_update(self, model: Model, state: State, total: Statistic, round: Round) -> State:  # noqa: ARG002
        return State({"x": (total["x"] / total["count"]).float()})


@dataclass
class Made:
    """Parties that exist only as messages, made one by one; of thirty that are `failing` three do."""

    codec: Codec
    clients: Sequence[str]
    numbers: int
    failing: bool = False
    evaluators: Sequence[str] = ()

    def ask(self, questions: Mapping[str, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:  # noqa: ARG002
        for client in self.clients:
            if client in questions:
                answer = self.answer(client, questions[client])
                if answer:
                    yield answer

    def answer(self, client: str, question: bytes) -> Answer | None:
        fault = int(client) % 30 if self.failing else -1
        if fault == 0:
            return None
        if fault == 10:
            return Answer(client, fault="it could not compute an answer")
        text = {"client": client, "to": self.codec.text(question)["to"], "is": UPDATE}
        update = {"x": torch.full((self.numbers - (fault == 20),), 0.5), "count": torch.tensor(2.0).double()}
        return Answer(client, self.codec.encode(update, text))

    def kept(self) -> Tensors:
        return {}

    def keep(self, client: str, kept: Tensors) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """There is nothing to end."""


class Lossy(InProcess):
    """Every twentieth party is lost after it has dealt its shares."""

    def ask(self, questions: Mapping[str, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        for answer in super().ask(questions, received, round):
            step = self._work.codec.text(questions[answer.client])["step"] if answer else ""
            if step not in ("input", "reveal") or int(answer.client) % 20:
                yield answer


@dataclass
class Grid:
    """The part of Flower's grid that is used; each node is a party of the `made`, called by its number."""

    made: Made
    theirs: Apart
    questions: dict[str, Any] = field(default_factory=dict)
    ready: dict[str, Any] = field(default_factory=dict)
    asked: int = 0
    numbers: Iterator[int] = field(default_factory=count)

    def open(self) -> Any:
        return self

    def close(self) -> None:
        """There is nothing to end."""

    def get_node_ids(self) -> list[int]:
        return [int(client) for client in self.made.clients]

    def push_messages(self, messages: Sequence[Any]) -> list[str]:
        names = [f"message-{next(self.numbers)}" for _ in messages]
        for name, message in zip(names, messages, strict=True):
            message.metadata.__dict__["_message_id"] = name
        self.questions |= zip(names, messages, strict=True)
        return names

    def pull_messages(self, names: Sequence[str]) -> list[Any]:
        self.asked += len(names)
        with self.theirs:
            for name in [*islice(self.questions, READY)]:
                self.ready[name] = self.reply(self.questions.pop(name))
            return [self.ready.pop(name) for name in names if name in self.ready]

    def reply(self, message: Any) -> Any:
        client = str(message.metadata.dst_node_id).zfill(len(self.made.clients[0]))
        if message.metadata.message_type == flower.GREETING:
            return replied(message, lambda: f'{{"client": "{client}"}}'.encode())
        answer = self.made.answer(client, unpack(message))
        assert answer
        return replied(message, lambda: answer.payload)


class Apart:
    """Processor time that is the clients'; `of` is a transport whose own time is."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begin = 0.0

    def __enter__(self) -> None:
        self._begin = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._begin

    def of(self, transport: Any) -> Any:
        ask = transport.ask

        def timed(*given: Any) -> Generator[Answer | None]:
            answers = ask(*given)
            while True:
                with self:
                    found = next(answers, self)
                if found is self:
                    return
                yield found

        transport.ask = timed
        return transport


def names(clients: int) -> list[str]:
    return [f"{c:05d}" for c in range(clients)]


def measured(
    phase: Mean,
    place: Callable[[Work, Apart], Transport],
    *,
    rules: Rules = RULES,
    on_disk: bool = False,
    masked: bool = False,
) -> tuple[float, float]:
    """(median processor seconds of a round, peak of memory in bytes); the first round is not counted."""
    method, theirs = squares(phase), Apart()
    work = Work(method, MODEL, Codec(), masking=Masking() if masked else None)
    transport = place(work, theirs)
    gc.collect()
    before, found = resident(), list[float]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = Server(
            work,
            transport,
            rules=rules,
            journal=Journal(folder / "journal" if on_disk else None),
            gate=Gate(work),
            tell=Activity(folder / "activity.jsonl"),
        )
        log, begin = Log(folder / "events.jsonl", 0), time.process_time()
        for event in run(method, MODEL, TASKS, server, seed=0, start=None):
            log.append(records.line(records.record(event)))
            last = Checkpoint(event.number + 1, event.state, server.memory(), log.length, log.sha256, server.kept())
            checkpoint.write(folder / "state", last)
            found.append(time.process_time() - begin - theirs.seconds)
            theirs.seconds, begin = 0.0, time.process_time()
    return median(found[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def updates(clients: int, numbers: int, order: str, rounds: int, **options: Any) -> tuple[float, float]:
    """Of a round of messages in memory."""
    failing = options.pop("failing", False)
    cohort = ORDERS[order](names(clients))
    return measured(
        Mean(numbers, rounds + 1),
        lambda work, theirs: theirs.of(Made(work.codec, cohort, numbers, failing)),
        **options,
    )


def grid(clients: int, numbers: int, rounds: int) -> tuple[float, float, float]:
    """The same over a grid; and the messages that are asked for by answer."""
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # messages are made inside a task
    flower.PULL = 0.0
    grids = list[Grid]()

    def over(work: Work, theirs: Apart) -> Transport:
        grids.append(Grid(Made(work.codec, names(clients), numbers), theirs))
        return flower.OverGrid(grids[0], names(clients), None)  # type: ignore[arg-type]

    found = measured(Mean(numbers, rounds + 1), over)
    return *found, grids[0].asked / (clients * (rounds + 2))


def keeping(clients: int, numbers: int, rounds: int) -> tuple[float, float]:
    """Of a round of clients that compute here."""
    parties = holders(dict.fromkeys(names(clients), (1.0, 2.0)))
    phase = Mean(numbers, rounds + 1, keeps=True)
    return measured(phase, lambda work, _: InProcess(work, parties, {}))


def masked(clients: int, numbers: int, rounds: int) -> tuple[float, float]:
    """Of a masked round."""
    parties = holders(dict.fromkeys(names(clients), (1.0, 2.0)))
    rules = Rules(deadline=36000, quorum=0.5)
    phase = Mean(numbers, rounds + 1)
    return measured(phase, lambda work, theirs: theirs.of(Lossy(work, parties, {})), rules=rules, masked=True)


def show(what: str, clients: int, found: Sequence[float]) -> None:
    seconds, peak, *asked = found
    more = f", {asked[0]:.1f} messages asked for by answer" if asked else ""
    print(
        f"{what:<26} | {clients:>6} clients: {1e3 * seconds / clients:7.3f} ms, peak {peak / 1e6:7.1f} MB{more}",
        flush=True,
    )


def counts(text: str) -> list[int]:
    return [int(one) for one in text.split(",") if one]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=counts, default=[200, 2000, 6000, 20000])
    parser.add_argument("--masked", type=counts, default=[50, 100, 200])
    parser.add_argument("--rounds", type=int, default=3, help="that are counted")
    parser.add_argument("--rows", nargs="*", default=["updates", "failing", "disk", "grid", "keeping", "masked"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    small, large, rounds = 2**10, 2**14, given.rounds
    rows: list[tuple[str, str, Callable[[int], Any]]] = [
        ("updates", f"{4 * size // 1024} KB, {order}", lambda n, s=size, o=order: updates(n, s, o, rounds))
        for size in (small, large)
        for order in ORDERS
    ]
    rows += [
        ("failing", "4 KB, drawn, 10 % fail", lambda n: updates(n, small, "drawn", rounds, failing=True)),
        ("disk", "4 KB, reversed, on disk", lambda n: updates(n, small, "reversed", rounds, on_disk=True)),
        ("grid", "4 KB, over a grid", lambda n: grid(n, small, rounds)),
        ("keeping", "4 KB, computed here", lambda n: keeping(n, small, rounds)),
        ("masked", "4 KB, masked", lambda n: masked(n, small, rounds)),
    ]
    for kind, title, work in rows:
        for clients in (given.masked if kind == "masked" else given.clients) if kind in given.rows else ():
            show(title, clients, in_own_process(lambda work=work, clients=clients: work(clients)))


if __name__ == "__main__":
    main()
