"""Sites to attack, as bytes and through their own program, with planted values that must never leave them.

Two kinds: `digits` are tables of image files for the embedded backbone, `texts` tables of sentences for a small BERT.
Each table has a column of patients beside what is learned, and rows of a class of which no server is told.
"""

from __future__ import annotations

import base64
import csv
import json
import shutil
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from fedbraid import config as configs
from fedbraid.algebra import ZERO, Tensors
from fedbraid.core import Round, State
from fedbraid.deployment import faults, handshake
from fedbraid.deployment.answering import Answering
from fedbraid.deployment.commands import init
from fedbraid.deployment.site import FILE, read_site
from fedbraid.deployment.toml import write_table
from fedbraid.engine import schedule
from fedbraid.experiment import Experiment, build
from fedbraid.runtimes.asking import Asking
from fedbraid.runtimes.codec import Codec, Message
from fedbraid.runtimes.envelope import coded, pack, replied, unpack
from fedbraid.testing import random_bert
from fedbraid.testing.words import sentence

COLUMN, CELL, WORD = "patientcolumn7Q", "P-001-ZEBRAQUARTZ", "orchidvault"
HIDDEN, FOLDER, NUMBER = "hiddenclassKESTREL", "ownfolderMAGNOLIA", 73951.28125
SECRETS = (COLUMN, CELL, WORD, HIDDEN, FOLDER)
RARE = "9"
"""A class of which a site of digits has one sample."""
CLIENTS = ("east", "north", "south", "west")
CLASSES = {"digits": [str(label) for label in range(4)], "texts": ["bill", "greet"]}
"""What servers are told of."""
SETTINGS: Mapping[str, Sequence[str]] = {
    "digits": ("stream.sizes=[2,2]", "data.classes=4"),
    "texts": ("stream.tasks=1", "data.classes=['bill','greet']"),
}
SMALL = ("training.rounds=1", "training.epochs=1", "adapter.rank=1", "adapter.blocks=0", "run.threads=1")
FEWEST = 20
"""The least number of samples that sites set, unless an attack is on something else."""


@dataclass(frozen=True)
class Attack:
    """One thing that a dishonest server tries. `run` says what it has learned by it, nothing where that is nothing."""

    kind: str
    what: str
    run: Callable[[World], str]


ATTACKS: list[Attack] = []
"""All attacks, in the order in which they are written down."""


def attack(kind: str, what: str) -> Callable[[Callable[[World], str]], Callable[[World], str]]:
    """Adds the function below it to the attacks."""

    def add(run: Callable[[World], str]) -> Callable[[World], str]:
        ATTACKS.append(Attack(kind, what, run))
        return run

    return add


@dataclass(frozen=True)
class Came:
    """What came back of one message: the bytes that travelled, and the code where it is no answer."""

    content: bytes
    code: str = ""

    def __str__(self) -> str:
        return self.code or f"{len(self.content)} bytes"

    @property
    def message(self) -> Message:
        return Codec().decode(self.content)


@dataclass
class Target:
    """A site under attack. What leaves it is what its app replies, a code in the place of every error."""

    folder: Path
    came: list[Came] = field(default_factory=list[Came])

    @cached_property
    def program(self) -> Answering:
        return Answering(read_site(self.folder))

    def greet(self, text: bytes) -> Came:
        return self._asked(self.program.greet, text)

    def check(self) -> Came:
        return self._asked(lambda _: self.program.check(), b"")

    def answer(self, question: bytes) -> Came:
        return self._asked(self.program.answer, question)

    def allow(self, **terms: Any) -> None:
        """Writes into the site's own file what it allows."""
        usual = read_site(self.folder).terms
        write_table(self.folder / FILE, type(usual)(**{**usual.model_dump(), **terms}), "A site to attack.")
        self.__dict__.pop("program", None)

    def restarted(self) -> Target:
        """The same site in another process, whose replies count as this one's."""
        return Target(self.folder, self.came)

    def _asked(self, work: Callable[[bytes], bytes], payload: bytes) -> Came:
        from flwr.app import ConfigRecord
        from flwr.app import Message as Carried

        asked = Carried(pack(payload), 1, "train")
        reply = replied(asked, lambda: work(unpack(asked)), lambda error: coded(*faults.keep(self.folder, error)))
        told = reply.content.get("fault")
        if isinstance(told, ConfigRecord):
            self.came.append(Came(json.dumps(dict(told)).encode(), str(told["code"])))
        else:
            self.came.append(Came(unpack(reply)))
        return self.came[-1]


class World:
    """Where sites to attack come from; `watched` is what they did on the disk since it was last emptied."""

    def __init__(self, root: Path) -> None:
        from flwr.supercore.task_identity import TaskIdentity

        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self.root = root
        self.decoys = root / "decoys"
        self.marker = root / "marker"
        self.watched = _Watched(self.decoys)
        self._number = 0
        self._states: dict[bytes, tuple[Experiment, State, Round]] = {}
        self._bert = str(random_bert(root / "bert"))
        _write_data(root)
        _write_decoys(self.decoys, self.marker)

    @property
    def targets(self) -> list[Target]:
        return self._targets

    def begin(self) -> None:
        """Forgets the sites of the attack before."""
        self._targets: list[Target] = []
        self.watched.paths.clear()

    def config(self, kind: str, *settings: str, method: str = "fedit") -> configs.Config:
        """The configuration of an honest server."""
        backbone = {"digits": "tiny", "texts": self._bert}[kind]
        given = [*SETTINGS[kind], *SMALL, f"backbone.name={backbone}", f"method.name={method}"]
        placed = [f"data.name={self.root / 'server' / kind}", "partition.kind=sites"]
        sites = f"partition.sites={json.dumps(CLIENTS)}"
        return configs.read("", [*given, *placed, sites, "run.runtime=deployed", *settings])

    def site(
        self, kind: str = "digits", name: str = "north", *, methods: Sequence[str] = ("fedit",), **terms: Any
    ) -> Target:
        """A new site, that allows nothing but these methods and what the terms say."""
        self._number += 1
        folder = self.root / "attacked" / str(self._number) / name
        target = Target(Path(shutil.copytree(self._federation(kind) / "sites" / name, folder)))
        target.allow(**{"methods": tuple(methods), "least_samples": FEWEST, **terms})
        self._targets.append(target)
        return target

    def _federation(self, kind: str) -> Path:
        """A federation of that kind, made once as the command line makes it, whose sites' folders are copied."""
        whole = self.root / "federations" / kind
        if not whole.exists():
            data = {name: self.root / FOLDER / kind / name for name in CLIENTS}
            server = self.config(kind).model_copy(update={"run": configs.Config().run})
            terms = {"address": "127.0.0.1:9092", "wait": 0}
            init(whole, server, [f"{name}={place}" for name, place in data.items()], terms)
        return whole

    def sent(
        self, config: configs.Config, *, name: str = "r", tested: bool = False, **changed: Mapping[str, Any]
    ) -> bytes:
        """A greeting with this configuration; `changed` are sections as a dishonest server spells them."""
        facts = json.loads(handshake.write(config, run=name, tested=tested))
        for section, values in changed.items():
            facts["config"].setdefault(section, {}).update(values)
        return json.dumps(facts).encode()

    def begun(self, config: configs.Config) -> tuple[Experiment, State, Round]:
        """An honest server's run up to the first round that clients are asked for: experiment, state and round."""
        key = configs.to_toml(config).encode()
        if key not in self._states:
            experiment, state = build(config), State()
            for round, phase in schedule(experiment.method, experiment.tasks, config.run.seed):
                if phase.cohort(CLIENTS, round):
                    self._states[key] = experiment, state, round
                    break
                state = phase.server_update(experiment.model, state, ZERO, round)
        return self._states[key]

    def greeted(self, config: configs.Config, **terms: Any) -> tuple[Target, State, Round]:
        """A site that was greeted for this run, and where an honest server would begin it: site, state and round."""
        target = self.site(**terms)
        target.greet(self.sent(config))
        _, state, round = self.begun(config)
        return target, state, round


def question(shared: Tensors, round: Round, run: str = "r") -> Message:
    """A question in clear, as an honest server asks it."""
    asking = Asking(Codec(), None, run=run)  # pyright: ignore[reportArgumentType]
    asked = asking.messages(asking.begin(shared, round), ["north"], lambda *_: None)["north"]
    return Codec().decode(asked)


def spelled(message: Message, **text: str) -> bytes:
    """The message as bytes, with other words where they are given."""
    return Codec().encode(message.tensors, {**message.text, **text})


def spilled(came: Sequence[Came]) -> list[str]:
    """The planted values that are in what came back, written in whatever way."""
    content = b"\n".join(one.content for one in came)
    content += b"\n".join(one.content.decode(errors="replace").encode("unicode_escape") for one in came)
    found = [secret for secret in SECRETS if any(form in content for form in _forms(secret))]
    numbers = (struct.pack("<f", NUMBER), struct.pack("<d", NUMBER), str(NUMBER).encode())
    return [*found, *([str(NUMBER)] if any(form in content for form in numbers) else [])]


def _forms(secret: str) -> Iterator[bytes]:
    plain = secret.encode()
    yield from (plain, plain.lower(), plain[::-1], plain.hex().encode(), secret.encode("utf-16-le"))
    for shift in range(3):  # base64 of a text in which it begins at any place
        yield base64.b64encode(b"\0" * shift + plain)[4 if shift else 0 : -4]


class _Watched:
    """An audit hook: decoys that were opened or listed, and files written elsewhere than in an attacked site."""

    def __init__(self, decoys: Path) -> None:
        self.paths: list[str] = []
        self._decoys = str(decoys)
        self._on = False
        sys.addaudithook(self._heard)

    @contextmanager
    def on(self) -> Iterator[None]:
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def _heard(self, event: str, values: tuple[Any, ...]) -> None:
        if not self._on or event not in ("open", "os.listdir", "os.scandir", "subprocess.Popen", "socket.connect"):
            return
        path = str(values[0]) if values else ""
        if event in ("subprocess.Popen", "socket.connect") or path.startswith(self._decoys):
            self.paths.append(f"{event} {path}")


def _write_data(root: Path) -> None:
    images, labels = load_digits(return_X_y=True)
    rows = {label: np.flatnonzero(labels == label).tolist() for label in range(10)}
    for number, name in enumerate(CLIENTS):
        own = [row for label in range(4) for row in rows[label][30 * number :][:30]]
        rare, hidden = rows[int(RARE)][number : number + 1], rows[8][number : number + 3]
        told = [(row, str(labels[row])) for row in [*own, *rare]] + [(row, HIDDEN) for row in hidden]
        _digits(root / FOLDER / "digits" / name / "train.csv", images, told)
        _texts(root / FOLDER / "texts" / name / "train.csv", 30, seed=number)
    tests = [(row, str(label)) for label in (*range(4), int(RARE)) for row in rows[label][150:152]]
    _digits(root / "server" / "digits" / "test.csv", images, tests)
    _texts(root / "server" / "texts" / "test.csv", 2, seed=9)


def _digits(path: Path, images: Any, rows: Sequence[tuple[int, str]]) -> None:
    path.parent.mkdir(parents=True)
    for row, _ in rows:
        pixels = (images[row].reshape(8, 8) * (255 / 16)).round().astype(np.uint8)
        Image.fromarray(pixels).save(path.parent / f"{row}.png")
    _table(path, [{"image": f"{row}.png", "label": label} for row, label in rows])


def _texts(path: Path, count: int, *, seed: int) -> None:
    path.parent.mkdir(parents=True)
    draws = torch.Generator().manual_seed(seed)
    told = [
        {"text": f"{sentence(label, draws)} {WORD}", "label": name}
        for label, name in enumerate([*CLASSES["texts"], HIDDEN])
        for _ in range(count)
    ]
    _table(path, told if path.name == "train.csv" else told[: 2 * count])


def _table(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """The rows, those to train on with what the site tells nobody."""
    private = {COLUMN: CELL, "dose": NUMBER} if path.name == "train.csv" else {}
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, [*rows[0], *private])
        table.writeheader()
        table.writerows({**row, **private} for row in rows)


def _write_decoys(folder: Path, marker: Path) -> None:
    """Files that a server may want to be read, and code that it may want to be run."""
    folder.mkdir()
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\nclass Method: pass\nDATA = Method\n"
    (folder / "hostile.py").write_text(code)
    (folder / "passwords.csv").write_text(f"text,label\n{CELL},bill\n{CELL},greet\n")
    (folder / "config.json").write_text('{"model_type": "bert"}')
