"""Events as plain records: one JSON object a finished round, in `events.jsonl` and on a pipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedbraid.core import Event
from fedbraid.errors import RunError

Record = Mapping[str, Any]


def record(event: Event) -> dict[str, Any]:
    """What is told of a finished round; `loss`, `correct` and `total` are null where there is none."""
    outcome, test = event.outcome, event.test
    samples = outcome.total.get("metric/samples")
    return {
        "event": event.number,
        "task": event.round.task.index,
        "phase": event.round.phase,
        "round": event.round.index,
        "reported": list(outcome.reported),
        "idle": list(outcome.idle),
        "bytes_up": dict(outcome.bytes_up),
        "bytes_down": dict(outcome.bytes_down),
        "seconds": outcome.seconds,
        "test_seconds": test.seconds if test else 0.0,
        "loss": (outcome.total["metric/loss"] / samples).item() if samples is not None else None,
        "correct": test.total["correct"].tolist() if test else None,
        "total": test.total["total"].tolist() if test else None,
    }


def line(values: Record) -> bytes:
    """The record as one line of JSON."""
    return (json.dumps(values, separators=(",", ":")) + "\n").encode()


def read(path: Path) -> list[Record]:
    """The records of a file; a last line that was cut off in writing is left out.

    Raises `RunError` naming a line that is damaged.
    """
    if not path.is_file():
        return []
    found: list[Record] = []
    for number, text in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            found.append(json.loads(text))
        except ValueError as error:
            raise RunError(f"{path}, line {number} is damaged ({error}); restore the file, or run anew") from error
    return found
