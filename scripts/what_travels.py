"""Prints what clients of every method send, by name, as the Markdown table of `docs/what-travels.md`.

    python scripts/what_travels.py

Every method runs in the tiny worlds of `fedbraid.testing`, in all its modalities and some options, with updates lifted
on the server and on the clients; what is listed was sent.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from state_hashes import ALSO, PLAN, SMALL, make_world

from fedbraid.algebra import Tensors
from fedbraid.core import EVALUATE, Round
from fedbraid.engine import run
from fedbraid.methods import METHODS, Options, Setting, make
from fedbraid.models import Adapter
from fedbraid.quantities import VALUES
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.exchange import Answer
from fedbraid.runtimes.inprocess import InProcess
from fedbraid.runtimes.server import Server
from fedbraid.wire import anonymous, entries

EXAM = "evaluations"
Row = tuple[str, str, str, str]
"""A name without keys, its role, its label, what it discloses."""


class Listening(InProcess):
    """Takes note of every tensor that a client sends."""

    heard: dict[Row, set[str]]

    def ask(self, questions: Mapping[str, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        for found in super().ask(questions, received, round):
            tensors = self._work.codec.decode(found.payload).tensors if found else {}
            told = entries(tensors, self._work.gives(round))
            assert len(told) == len(tensors), "a name that is not declared"
            for entry in told:
                name = "<value>" if entry.kind in VALUES else f"{entry.kind}{'/...' if entry.key else ''}"
                label = "" if entry.kind in VALUES else entry.label
                row = (anonymous(entry.place + name), entry.quantity.role, label, entry.quantity.discloses)
                self.heard.setdefault(row, set()).add(EXAM if round.phase == EVALUATE else self._work.method.name)
            yield found


def main() -> None:
    found: dict[Row, set[str]] = {}
    with TemporaryDirectory() as folder:
        for name in METHODS:
            for changed in ({}, *ALSO.get(name, ())):
                options = METHODS[name](**SMALL.get(name, {}), **changed)
                for modality in options.about.modalities:
                    for row, users in _sent(options, modality, Path(folder)):
                        found.setdefault(row, set()).update(users)
    print("| name | quantity | what it discloses | sent by |\n|---|---|---|---|")
    for (name, role, label, discloses), users in sorted(found.items(), key=lambda one: (EXAM in one[1], one[0])):
        by = "all that train" if len(users) > len(METHODS) / 2 else ", ".join(sorted(users))
        print(f"| `{name}` | {role}{f' ({label})' if label and label != role else ''} | {discloses} | {by} |")


def _sent(options: Options, modality: str, folder: Path) -> Iterator[tuple[Row, set[str]]]:
    world = make_world(modality, folder, joined=options.about.centralised)
    adapter = options.adapter(Adapter(options.about.adapters[0], rank=2, blocks="0-1"))  # type: ignore[arg-type]
    method = make(options, Setting(adapter, PLAN, 2, **world.learned))
    for side in ("server", "client"):
        work = Work(method, world.model(adapter), Codec(), side)
        transport = Listening(work, world.clients, world.evaluators)
        transport.heard = {}
        for _ in run(method, work.model, world.tasks, Server(work, transport), seed=0, evaluate="task"):
            pass
        yield from transport.heard.items()


if __name__ == "__main__":
    main()
