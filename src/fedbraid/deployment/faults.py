"""What went wrong at a site, kept there: the whole sentence, for whoever runs the site.

faults.json     the last fault of each kind: when, how often, the sentence
logs/           every fault; with its traceback where nobody foresaw it
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fedbraid.deployment.notes import read_note, write_note
from fedbraid.errors import RunError, UserError
from fedbraid.runtimes.faults import code_of

FILE = "faults.json"

log = logging.getLogger("fedbraid.site")


def keep(folder: Path, error: Exception) -> tuple[str, int | None]:
    """(code, number) that may leave in the place of this error, once its sentence is in the site's own files."""
    code, needed = code_of(error)
    foreseen = isinstance(error, RunError | UserError)
    sentence = str(error) if foreseen else f"{type(error).__name__}: {error}"
    log.error("%s: %s", code, sentence, exc_info=None if foreseen else error)
    if not folder.is_dir():  # the error may be that there is none
        return code, needed
    known = read(folder)
    times = int(known.get(code, {}).get("times", 0)) + 1
    at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_note(folder / FILE, {**known, code: {"at": at, "times": times, "sentence": sentence}})
    return code, needed


def read(folder: Path) -> Mapping[str, Any]:
    """The last fault of each code."""
    return read_note(folder / FILE)
