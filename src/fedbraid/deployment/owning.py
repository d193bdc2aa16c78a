"""Files of a federation are readable by their owner alone, whatever the account's own habit (its umask) is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def owner_alone() -> Iterator[None]:
    """Folders of mode 700 and files of mode 600 are made inside, also by programs that are started there."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
