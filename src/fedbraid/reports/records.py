"""Events as plain records: one JSON object a finished round, in `events.jsonl` and on a pipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedbraid.core import Event
from fedbraid.errors import RunError
from fedbraid.evaluation import scores

Record = Mapping[str, Any]


def record(event: Event) -> dict[str, Any]:
    """What is told of a finished round; `loss`, `correct` and `total` are null where there is none.

    `deviation` is (scaled, relative) by layer, as in `merges.deviation`: what averaging the factors loses.
    `scores` holds every score that the sums of the evaluation give; it is empty where right answers alone are counted.
    `refused` and `failed` say by client why an answer to the round, or else to its evaluation, did not count, `clipped`
    what was made smaller of one that did.
    """
    outcome, test = event.outcome, event.test
    lost = [one for one in (test, outcome) if one]
    return {
        "event": event.number,
        "task": event.round.task.index,
        "phase": event.round.phase,
        "round": event.round.index,
        "reported": list(outcome.reported),
        "idle": list(outcome.idle),
        "refused": {client: str(refusal) for one in lost for client, refusal in one.refused.items()},
        "failed": {client: reason for one in lost for client, reason in one.failed.items()},
        "clipped": dict(outcome.clipped),
        "bytes_up": dict(outcome.bytes_up),
        "bytes_down": dict(outcome.bytes_down),
        "seconds": outcome.seconds,
        "test_seconds": test.seconds if test else 0.0,
        "values_up": dict(outcome.values_up),
        "loss": event.figures.get("loss"),
        "deviation": {layer: list(sizes) for layer, sizes in event.figures.get("deviation", {}).items()},
        "correct": test.total["correct"].tolist() if test and "correct" in test.total else None,
        "total": test.total["total"].tolist() if test and "total" in test.total else None,
        "scores": scores(test.total) if test else {},
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
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path}, line {number} is damaged ({error}); restore the file, or run anew") from error
    return found
