"""What averaging the factors loses, as the records of a run tell it: by round and layer (see `merges.deviation`)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any


@dataclass(frozen=True)
class Deviation:
    """The deviation of one round: by layer the size of a typical entry, and the share of the mean update."""

    task: int
    phase: str
    round: int
    scaled: Mapping[str, float]
    relative: Mapping[str, float]

    @property
    def worst(self) -> str:
        """The layer of the largest share."""
        return max(self.relative, key=lambda layer: self.relative[layer])


def deviations(events: Iterable[Mapping[str, Any]]) -> list[Deviation]:
    """The rounds that have a deviation, in order; values that are no finite numbers are left out.

    >>> event = {"task": 0, "phase": "train", "round": 1, "deviation": {"fc1": [0.001, 0.25], "fc2": [0.002, 0.5]}}
    >>> [(found.round, found.worst) for found in deviations([event, {"deviation": {}}, {}])]
    [(1, 'fc2')]
    """
    found: list[Deviation] = []
    for event in events:
        sizes = {layer: pair for layer, pair in (event.get("deviation") or {}).items() if all(map(math.isfinite, pair))}
        if sizes:
            found.append(
                Deviation(
                    task=int(event["task"]),
                    phase=str(event["phase"]),
                    round=int(event["round"]),
                    scaled={layer: scaled for layer, (scaled, _) in sizes.items()},
                    relative={layer: relative for layer, (_, relative) in sizes.items()},
                )
            )
    return found


def measures(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Mean and maximum of the relative deviation over rounds and layers; nothing where no round has one.

    >>> measures([{"task": 0, "phase": "train", "round": 0, "deviation": {"fc1": [0.1, 0.25], "fc2": [0.1, 0.75]}}])
    {'deviation_mean': 0.5, 'deviation_max': 0.75}
    """
    known = [share for found in deviations(events) for share in found.relative.values()]
    return {"deviation_mean": fmean(known), "deviation_max": max(known)} if known else {}


def layers_of(found: Sequence[Deviation]) -> list[str]:
    """The names of all layers, numbers in them in numerical order.

    >>> layers_of([Deviation(0, "train", 0, {}, {"blocks.10.fc": 0.1, "blocks.9.fc": 0.1})])
    ['blocks.9.fc', 'blocks.10.fc']
    """
    return sorted({layer for one in found for layer in one.relative}, key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
