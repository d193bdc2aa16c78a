"""One process a run folder: two that go on with the same run would spoil each other's files."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedbraid.errors import UserError


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Holds the folder until the block ends or the process dies; `UserError` where another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another process computes {folder}; see it with 'fedbraid watch {folder}'") from error
        yield
    finally:
        os.close(descriptor)
