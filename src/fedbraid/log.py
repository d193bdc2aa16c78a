"""The log of a run's events: records are appended and synced, and what a crash left behind the state is cut off.

It knows the SHA-256 of what it holds, which the manifest of a state records, so that a flipped bit is noticed.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from fedbraid.checkpoint import disk_error


class Log:
    """The first `length` bytes of a file, to which records are added; what lies behind them is cut off."""

    def __init__(self, path: Path, length: int) -> None:
        self._path = path
        begun = path.read_bytes() if path.is_file() else b""
        if len(begun) > length:
            self._cut(length)
        self._digest = hashlib.sha256(begun[:length])
        self.length = length

    @property
    def sha256(self) -> str:
        """The SHA-256 of all that it holds."""
        return self._digest.hexdigest()

    def append(self, line: bytes) -> None:
        """The record is on disk when this returns; `StoppedRun` where it cannot be written."""
        try:
            with self._path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise disk_error(error, self._path, len(line)) from error
        self._digest.update(line)
        self.length += len(line)

    def _cut(self, length: int) -> None:
        try:
            os.truncate(self._path, length)
        except OSError as error:
            raise disk_error(error, self._path, length) from error
