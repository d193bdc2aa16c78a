"""What the processes of a federation leave for each other: small facts as JSON, replaced as a whole.

    wanted.json    whether the run is to go on, and which Flower run serves it
    outcome.json   how the last Flower run ended
    processes/     who runs

The run needs none of them: what it is made of lies in its own folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

FINISHED, PAUSED, REFUSED, BROKEN = "finished", "paused", "refused", "broken"
"""How a Flower run can end: nothing is left to do, the world's fault, the operator's, nobody foresaw it."""


@dataclass(frozen=True)
class Wanted:
    """Whether the run is to go on, and which Flower run serves it."""

    go_on: bool = False
    flower_run: int | None = None


def wanted(federation: Path) -> Wanted:
    """What is wanted now."""
    found = read_note(federation / "wanted.json")
    number = found.get("flower_run")
    return Wanted(bool(found.get("go_on")), number if isinstance(number, int) else None)


def want(federation: Path, now: Wanted) -> None:
    """Says what is wanted from now on."""
    write_note(federation / "wanted.json", asdict(now))


def ended(federation: Path) -> Mapping[str, str]:
    """How the last Flower run ended, as `outcome`, `reason` and `at`; nothing where it has left no word."""
    return {key: str(value) for key, value in read_note(federation / "outcome.json").items()}


def end_with(federation: Path, outcome: str, reason: str = "", *, again: bool = True) -> None:
    """Leaves word of how a Flower run ended, and whether trying again may help without anybody's doing."""
    at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    facts = {"outcome": outcome, "reason": reason, "at": at, "again": "yes" if again else "no"}
    write_note(federation / "outcome.json", facts)


def read_note(path: Path) -> dict[str, Any]:
    """The facts of a file; none where there is none, or it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_note(path: Path, facts: Mapping[str, Any]) -> None:
    """Replaces the facts of a file. They can be lost with the machine; whoever reads them can do without."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(json.dumps(dict(facts)))
    os.replace(draft, path)
