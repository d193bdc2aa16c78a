"""What happens in a run as it happens, for who watches it: one JSON object a line in `activity.jsonl`.

    {"at": "2026-01-31T12:00:00.000+00:00", "what": "received", "client": "3", "bytes": 81234}

`what` is one of round, again (who is asked once more), privacy (what leaves, what is spent), received, idle, failed,
refused, ignored, doubted (why nobody is refused for being strange, see `runtimes.robust`), merged, paused, stopped.
Nothing of a run depends on this log, so its lines are not synced, and a full disk costs the log alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

_BEGIN = b'{"at": '
"""How a line begins, and nothing inside one. A line that a killed process cut off has its successor's behind it."""


class Activity:
    """Appends to the log of a run; the folder need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, what: str, **facts: Any) -> None:
        line = {"at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"), "what": what, **facts}
        with suppress(OSError), self._path.open("a") as log:
            log.write(json.dumps(line) + "\n")


def read(path: Path, start: int = 0, most: int = -1) -> tuple[list[Mapping[str, Any]], int]:
    """The entries from a position in the file on, and the position after them; what is being written is left out.

    At most `most` bytes are looked at, so that a long log can be read in parts.
    """
    if not path.is_file():
        return [], start
    with path.open("rb") as log:
        log.seek(start)
        whole, _, _ = log.read(most).rpartition(b"\n")
    found: list[Mapping[str, Any]] = []
    for line in whole.split(b"\n") if whole else ():
        with suppress(ValueError, RecursionError):
            found.append(json.loads(line[max(line.rfind(_BEGIN), 0) :]))
    return found, start + len(whole) + bool(whole)
