"""What a party holds of masked rounds between their steps: its secrets of the sum under way, and what it has opened.

In this process it lies in memory. At a site, whose next message may be another process's, it lies in a file of its own
that nobody but its owner can read: the newest stage alone, and none once the sum is open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedbraid.checkpoint import write_durably
from fedbraid.errors import RunError
from fedbraid.runtimes.sealed import opened, sealed
from fedbraid.secure.stages import Stage, read_stage, write_stage

FILE = "masked"
REMEMBERED = 16
"""Of so many rounds a party remembers with whom it was summed."""


@dataclass(frozen=True)
class Held:
    """The stage of the sum under way, and by round a hash of those with whom this party's update was summed."""

    stage: Stage | None = None
    company: Mapping[str, str] = field(default_factory=dict[str, str])

    def at(self, stage: Stage) -> Held:
        """The next stage, which replaces the one before."""
        return Held(stage, self.company)

    def after(self, sum: str, company: str) -> Held:
        """The sum is open: nothing secret is left, and the company is remembered."""
        known = [item for item in self.company.items() if item[0] != sum]
        return Held(None, dict([*known, (sum, company)][-REMEMBERED:]))


class Desk(Protocol):
    """Where a party holds it."""

    def read(self) -> Held: ...
    def write(self, held: Held) -> None: ...


class InMemory:
    """That of a party of this process."""

    def __init__(self) -> None:
        self._held = Held()

    def read(self) -> Held:
        return self._held

    def write(self, held: Held) -> None:
        self._held = held


class OnDisk:
    """That of a site, in the folder that is its own."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def read(self) -> Held:
        if not self._path.is_file():
            return Held()
        found = opened(self._path)
        if found is None:
            raise RunError(f"{self._path} is damaged; remove it, and this client takes part in the next masked sum")
        return Held(read_stage(found[1].decode()) if found[1] else None, dict(found[0]))

    def write(self, held: Held) -> None:
        stage = write_stage(held.stage).encode() if held.stage else b""
        write_durably(self._path, sealed(held.company, stage), private=True)
