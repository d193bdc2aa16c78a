"""Reads what another process is writing: a growing file of JSON lines, a small file that is replaced now and then."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fedbraid import activity

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

Entry = Mapping[str, Any]
PART = 1 << 20
"""Bytes that are looked at at once, so that a log of any length costs little memory."""


class Lines:
    """The lines of a growing file, each given out once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._position = 0
        self._part = PART
        self._whole = True

    def restarted(self) -> bool:
        """Whether the file is another one now, or shorter than what was read of it; reading then begins anew."""
        number, length = self._found()
        changed = self._position > 0 and (number != self._file or length < self._position)
        if changed:
            self.rewind()
        return changed

    def rewind(self) -> None:
        """The next entries are those from the beginning on."""
        self._position, self._part = 0, PART

    def begun(self) -> bool:
        """Whether anything has been read."""
        return self._position > 0

    def behind(self) -> int:
        """How many bytes there are to read, those of a line that is being written included."""
        return max(self._found()[1] - self._position, 0)

    def changed(self) -> datetime | None:
        """When the file was written last; None where there is none."""
        try:
            return datetime.fromtimestamp(self._path.stat().st_mtime, timezone.utc)
        except OSError:
            return None

    def share(self) -> float:
        """How much of the file had been read when reading stopped; a line that was being written counts as read."""
        return 1.0 if self._whole else self._position / max(self._found()[1], 1)

    def entries(self, go_on: Callable[[], bool] = lambda: True) -> Iterator[Entry]:
        """What is new, a part at a time for as long as `go_on` says; what is damaged is left out."""
        self._file, length = self._found()
        while True:
            found, position = activity.read(self._path, self._position, self._part)
            if position > self._position:
                self._position, self._part = position, PART
                yield from (entry for entry in found if isinstance(entry, Mapping))
            elif self.behind() > self._part:
                self._part *= 2  # a line is longer than a part
            else:
                self._whole = True
                return
            self._whole = self._position >= length
            if not go_on():
                return

    def _found(self) -> tuple[int | None, int]:
        """Which file there is, and its length."""
        try:
            facts = self._path.stat()
        except OSError:
            return None, 0
        return facts.st_ino, facts.st_size


class Document:
    """A JSON or TOML file, read again when it has changed; empty where there is none, or none that can be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._values: Entry = {}

    def values(self) -> Entry:
        try:
            facts = self._path.stat()
            stamp = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
            if stamp != self._stamp:
                self._stamp, self._values = stamp, _parsed(self._path)
        except (OSError, ValueError):
            self._stamp, self._values = None, {}
        return self._values


def _parsed(path: Path) -> Entry:
    content = path.read_bytes()
    values = tomllib.loads(content.decode()) if path.suffix == ".toml" else json.loads(content)
    return values if isinstance(values, Mapping) else {}
