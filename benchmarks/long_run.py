"""Long runs, many clients, shuffled answers: what the server's memory does, and what the bits do.

python benchmarks/long_run.py [--rounds 10000] [--stored 2000] [--orders 20]

slope     memory in bytes a round over the last half of a run of a tiny numeric method (three clients, each sends
          what it was sent), by least squares on the resident size; without files, and with a journal and a state
          written after every round, whose number of files is counted
clients   peak memory above that of before the round, as multiples of one update (4 MB), over 10, 100 and 1000
          clients; answers come in the order of client ids, or the other way round, and wait in the journal then
orders    runs whose answers come in another order and with pauses each time: hashes of all their states
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedbraid import checkpoint
from fedbraid.algebra import Statistic, Tensors
from fedbraid.checkpoint import Checkpoint, state_sha256
from fedbraid.core import Round, State, Task
from fedbraid.engine import run
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.exchange import UPDATE, Answer
from fedbraid.runtimes.inprocess import InProcess
from fedbraid.runtimes.journal import Journal
from fedbraid.runtimes.server import Server
from fedbraid.testing.numbers import Holder, Squares, squares

MODEL: Any = None
SIZE = 2**20
"""Numbers in a large update: 4 MB."""


class Drifting(Squares):
    """Its state changes in every round: the scale goes on by the mean of what the clients hold."""

    def server_update(self, model: Any, state: State, total: Statistic, round: Round) -> State:  # noqa: ARG002
        if not total:
            return state
        step = torch.sin(total["sum"] / total["count"]).float().reshape(1)
        scale = state.shared.get("scale", torch.ones(1))
        return State({"scale": 0.9 * scale + step, "filler": state.shared.get("filler", torch.zeros(64)) + step})


class Begin(Drifting):
    """The phase that makes the first state, in which nobody is asked."""

    def server_update(self, model: Any, state: State, total: Statistic, round: Round) -> State:  # noqa: ARG002
        return State({"scale": torch.ones(1), "filler": torch.zeros(64)})


def drifting(rounds: int) -> Any:
    """The method; nothing is evaluated."""
    method = squares(Drifting(rounds=rounds, evaluated=False))
    begin = Begin(evaluated=False, cohort=lambda _clients, _round: ())
    return replace(method, phases={"start": begin, **method.phases})


class Forgetting(InProcess):
    """`Squares` remembers what its clients have seen, for tests; a long run must not."""

    def ask(self, questions: Mapping[str, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        yield from super().ask(questions, received, round)
        self._work.method.phase(round).seen.clear()  # type: ignore[attr-defined]


class Shuffled(Forgetting):
    """Answers come in an order that is drawn, with pauses between them, some of them twice."""

    def __init__(self, work: Work, clients: Mapping[str, Any], draw: random.Random) -> None:
        super().__init__(work, clients, {})
        self._draw = draw

    def ask(self, questions: Mapping[str, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        found = [answer for answer in super().ask(questions, received, round) if answer is not None]
        found += self._draw.sample(found, self._draw.randint(0, len(found)))
        self._draw.shuffle(found)
        for answer in found:
            if self._draw.random() < 0.2:
                time.sleep(self._draw.random() * 2e-3)
                yield None
            yield answer


def resident() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def slope(rounds: int, folder: Path | None) -> tuple[float, int, float]:
    """(bytes a round over the last half, files at the end, processor seconds a round)."""
    clients = {str(c): Holder(str(c), (1.0, float(c))) for c in range(3)}
    method = drifting(rounds)
    work = Work(method, MODEL, Codec())
    journal = Journal(folder / "journal" if folder else None)
    server = Server(work, Forgetting(work, clients, {}), journal=journal)
    sizes: list[int] = []
    begin = time.process_time()
    for event in run(method, MODEL, [Task(0, (0, 2))], server, seed=0):
        if folder:
            checkpoint.write(folder / "state", Checkpoint(event.number + 1, event.state, server.memory()))
        if event.number % 100 == 0:
            gc.collect()
            sizes.append(resident())
    half = sizes[len(sizes) // 2 :]
    rise = float(np.polyfit(100 * np.arange(len(half)), half, 1)[0])
    files = sum(path.is_file() for path in folder.rglob("*")) if folder else 0
    return rise, files, (time.process_time() - begin) / rounds


@dataclass
class Wide:
    """Parties that exist only as messages: each sends one large update, made when it is its turn."""

    codec: Codec
    clients: Sequence[str]
    backwards: bool
    evaluators: Sequence[str] = ()

    def ask(self, questions: Mapping[str, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:  # noqa: ARG002
        for client in sorted(questions, reverse=self.backwards):
            text = {"client": client, "to": self.codec.text(questions[client])["to"], "is": UPDATE}
            yield Answer(client, self.codec.encode({"x": torch.full((SIZE,), float(len(client)))}, text))

    def kept(self) -> Tensors:
        return {}

    def keep(self, client: str, kept: Tensors) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """There is nothing to end."""


class Adding(Squares):
    """The update itself is the statistic."""

    def lift(self, shared: Tensors, update: Tensors, round: Round) -> Statistic:  # noqa: ARG002
        return Statistic({"x": update["x"]})

    def watch(self, shared: Tensors, update: Tensors, round: Round) -> Statistic:  # noqa: ARG002
        return Statistic()


def peak(clients: int, backwards: bool) -> float:
    """Updates that a round with so many clients takes at its peak, beside what was there before it."""
    method = squares(Adding())
    work = Work(method, MODEL, Codec())
    names = [f"{c:04d}" for c in range(clients)]
    with tempfile.TemporaryDirectory() as folder:
        server = Server(work, Wide(work.codec, names, backwards), journal=Journal(Path(folder)))
        shared = {"scale": torch.ones(1)}
        server.sum(shared, Round(Task(0, (0, 2)), "train", 0, 0), names[:2])
        gc.collect()
        before = resident()
        outcome = server.sum(shared, Round(Task(0, (0, 2)), "train", 1, 0), names)
        assert outcome.reported == tuple(names)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / (4 * SIZE)


def in_own_process(work: Callable[[], Any]) -> Any:
    """The result, printed by a forked process: peaks are those of a process."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, json.dumps(work()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        found = answer.read()
    if os.wait()[1]:
        raise SystemExit("the measurement failed")
    return json.loads(found)


def orders(runs: int, rounds: int, folder: Path) -> set[str]:
    """The hashes of all states of every run, one hash a run."""
    values = {str(c): Holder(str(c), tuple(torch.randn(5, generator=torch.manual_seed(c)).tolist())) for c in range(7)}
    found: set[str] = set()
    for number in range(runs):
        method = drifting(rounds)
        work = Work(method, MODEL, Codec())
        transport = Shuffled(work, values, random.Random(number))
        server = Server(work, transport, journal=Journal(folder / str(number) if number % 2 else None))
        events = run(method, MODEL, [Task(0, (0, 2))], server, seed=0)
        found.add(" ".join(state_sha256(event.state) for event in events))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of long runs and of many clients; bits of shuffled answers.")
    parser.add_argument("--rounds", type=int, default=10000)
    parser.add_argument("--stored", type=int, default=2000, help="rounds with a journal and a state on disk")
    parser.add_argument("--clients", default="10,100,1000")
    parser.add_argument("--orders", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        found = orders(options.orders, 20, Path(scratch))
        print(f"orders  | {options.orders} runs of 20 rounds, 7 clients: {len(found)} hash", flush=True)
        good &= len(found) == 1
        for rounds, folder in ((options.rounds, None), (options.stored, Path(scratch, "stored"))):
            rise, files, seconds = in_own_process(lambda rounds=rounds, folder=folder: slope(rounds, folder))
            where = f"journal and state on disk, {files} files at the end" if folder else "nothing on disk"
            print(f"slope   | {rounds} rounds, {where}: {rise:.0f} bytes a round, {1e3 * seconds:.1f} ms", flush=True)
            good &= rise < 1000
    for count in (int(text) for text in options.clients.split(",")):
        for backwards in (False, True):
            updates = in_own_process(lambda count=count, backwards=backwards: peak(count, backwards))
            order = "last client first" if backwards else "in order"
            print(f"clients | {count:>5} clients, {order}: {updates:.1f} updates of 4 MB at the peak", flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
