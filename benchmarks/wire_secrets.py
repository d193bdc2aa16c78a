"""Secrets of a federation, and where they must not be: command lines, environments, logs, the wire."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from wire_contents import hits

PRIVATE = ("*.key", "secret", "link.sqlite", "token-*")
"""What holds secrets, by the names of files."""
PAUSE = 0.03
"""Seconds between two looks at all processes."""


def secrets(folder: Path) -> dict[str, bytes]:
    """Private numbers of keys, the lines in which they are written, words by which processes know each other; by place.

    The first lines of a node's key hold its public part and are no secret.
    """
    found: dict[str, bytes] = {}
    for path in sorted([*folder.rglob("*.key"), *folder.rglob("processes/secret")]):
        content, name = path.read_bytes(), str(path.relative_to(folder))
        if path.suffix != ".key":
            found[name] = content
            continue
        load = serialization.load_ssh_private_key if b"OPENSSH" in content else serialization.load_pem_private_key
        key: Any = load(content, None)
        found[f"number of {name}"] = key.private_numbers().private_value.to_bytes(48, "big")
        lines = content.splitlines()[4 if b"OPENSSH" in content else 1 : -1]
        found |= {f"{name}, line {number}": line for number, line in enumerate(lines) if len(line) >= 16}
    return found


@dataclass
class Watching:
    """What was seen while processes ran: secrets in what others see of them, and the tokens that there were."""

    folder: Path
    tokens: set[str] = field(default_factory=set)
    lines: set[bytes] = field(default_factory=set)
    environments: set[bytes] = field(default_factory=set)
    looks: int = 0

    def named_tokens(self) -> dict[str, bytes]:
        return {f"token {number} of Flower": token.encode() for number, token in enumerate(sorted(self.tokens))}

    def shown(self, sought: Mapping[str, bytes]) -> list[str]:
        """The secrets in command lines, which every account sees, and in environments, which are the owner's."""
        places = {"a command line": self.lines, "an environment": self.environments}
        return [
            f"the secret {name} is in {where}"
            for where, seen in places.items()
            for name in hits({**sought, **self.named_tokens()}, seen)
        ]


@contextmanager
def watching(folder: Path) -> Iterator[Watching]:
    """Looks at all processes, again and again, and at the tokens that Flower gives out."""
    seen, over = Watching(folder), threading.Event()
    looking = threading.Thread(target=_look, args=(seen, over), daemon=True)
    looking.start()
    try:
        yield seen
    finally:
        over.set()
        looking.join()


def _look(seen: Watching, over: threading.Event) -> None:
    while not over.is_set():
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                seen.lines.add((process / "cmdline").read_bytes())
                seen.environments.add((process / "environ").read_bytes())
        seen.tokens |= _tokens(seen.folder / "link.sqlite")
        seen.looks += 1
        time.sleep(PAUSE)


def _tokens(database: Path) -> set[str]:
    """The tokens by which the server's own app proves itself, as they are now."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as base:
        return {token for (token,) in base.execute("SELECT token FROM task WHERE token IS NOT NULL")}
    return set()


def logged(sought: Mapping[str, bytes], folder: Path, printed: Iterable[bytes]) -> list[str]:
    """The secrets in logs, in the notes of processes, and in what commands printed."""
    found = [
        path for path in folder.rglob("*") if path.is_file() and path.suffix in (".log", ".old", ".json", ".jsonl")
    ]
    places = {str(path.relative_to(folder)): [path.read_bytes()] for path in found} | {"what commands print": printed}
    return [f"the secret {name} is in {where}" for where, texts in places.items() for name in hits(sought, texts)]


def open_to_others(folder: Path) -> list[str]:
    """The secrets that others than their owner can read, and the folders that others can enter."""
    files = [path for pattern in PRIVATE for path in folder.rglob(pattern) if path.is_file()]
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    wrong = [(path, path.stat().st_mode & 0o777) for path in files if path.stat().st_mode & 0o177]
    wrong += [(path, path.stat().st_mode & 0o777) for path in folders if path.stat().st_mode & 0o077]
    return [f"{path.relative_to(folder)} has mode {mode:o}" for path, mode in wrong]
