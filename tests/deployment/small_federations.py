"""Small federations: digits as tables of image files, and a grid in memory."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

HOLDS = {"north": (0, 1, 3, 4), "south": (1, 2, 3, 5)}
"""The classes of each site: neither has all, and both have some that come later."""
SMALL = ["stream.sizes=[2,2]", "data.classes=4", "training.rounds=1", "training.epochs=1", "privacy.small_grams=allow"]
LONGER = ["stream.sizes=[2,2,2]", "data.classes=6"]


def write(path: Path, images: Any, labels: Any, rows: Iterable[tuple[int, str]], *, client: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "label", *(["client"] if client else [])])
        for row, owner in rows:
            pixels = (images[row].reshape(8, 8) * (255 / 16)).round().astype(np.uint8)
            Image.fromarray(pixels).save(path.parent / f"{row}.png")
            table.writerow([f"{row}.png", labels[row], *([owner] if client else [])])


@dataclass
class Node:
    """A node in memory: its registered name, and what answers in it."""

    name: str
    greet: Callable[[bytes], bytes]
    answer: Callable[[bytes], bytes]
    check: Callable[[], bytes]
    fault: Callable[[Exception], Mapping[str, str | int]]
    status: str = "online"


@dataclass
class Grid:
    """The part of Flower's grid that is used, answering at once."""

    nodes: dict[int, Node]
    waiting: dict[str, Any] = field(default_factory=dict)
    sent: list[tuple[int, str]] = field(default_factory=list)
    numbers: Any = field(default_factory=itertools.count)

    def get_node_ids(self) -> list[int]:
        return [number for number, node in self.nodes.items() if node.status == "online"]

    def get_nodes(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(node_id=n, name=node.name, status=node.status) for n, node in self.nodes.items()]

    def push_messages(self, messages: Sequence[Any]) -> list[str]:
        from fedbraid.runtimes.envelope import replied, unpack

        names = []
        for message in messages:
            node = self.nodes[message.metadata.dst_node_id]
            name = f"message-{next(self.numbers)}"
            message.metadata.__dict__["_message_id"] = name
            kind = message.metadata.message_type
            self.sent.append((message.metadata.dst_node_id, kind))
            work = {"query": node.greet, "train": node.answer, "evaluate": lambda _, node=node: node.check()}[kind]
            compute = lambda work=work, message=message: work(unpack(message))  # noqa: E731
            self.waiting[name] = replied(message, compute, node.fault)
            names.append(name)
        return names

    def pull_messages(self, names: Iterable[str]) -> list[Any]:
        return [self.waiting.pop(name) for name in list(names) if name in self.waiting]


def federation(folder: Path, data: Path, *more: str, evaluate: str = "server", sites: Mapping[str, str] | None = None):
    """A federation whose sites' folders lie in it."""
    from fedbraid import config
    from fedbraid.deployment.commands import init

    held = sites or {site: str(data / (f"{site}-tested" if evaluate == "sites" else site)) for site in HOLDS}
    settings = config.read("", [*SMALL, f"data.name={data / 'server'}", *more])
    terms = {"address": "127.0.0.1:9092", "evaluate": evaluate, "wait": 0}
    return init(folder, settings, [f"{name}={path}" for name, path in held.items()], terms)


def grid_of(made: Any) -> Grid:
    """The sites of a federation as nodes."""
    return Grid({10 + number: node_of(made, name) for number, name in enumerate(made.terms.sites)})


def node_of(made: Any, name: str) -> Node:
    """A site of a federation as a node: what goes wrong leaves it as a code."""
    from fedbraid.deployment import faults
    from fedbraid.deployment.answering import Answering
    from fedbraid.deployment.site import read_site
    from fedbraid.runtimes.envelope import coded

    site = Answering(read_site(made.site(name)))
    return Node(name, site.greet, site.answer, site.check, lambda error: coded(*faults.keep(made.site(name), error)))
