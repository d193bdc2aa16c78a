"""An update made smaller, where so many are strange that none can be refused: bounded in size, taken all the same.

    weights     counts, Grams and sums are multiplied by one number, so that an update counts for fewer samples and what
                belongs together stays so: a Gram and its product give the same answer as before
    changes     a kind of tuned values moves less far from what was received, in the same direction

Which of both a tensor is, or neither, says its quantity.
What is taken then bounds what a false update can do, and no longer what it is: the merge is not that of the honest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import ClientId
from fedbraid.runtimes.robust.comparisons import by_kind, is_moved
from fedbraid.runtimes.robust.facts import Facts, is_change
from fedbraid.runtimes.robust.sketches import corner
from fedbraid.wire import Entry


@dataclass(frozen=True)
class Clip:
    """What an update is multiplied by: its weights, and by kind its changes; `moved` says from what those are."""

    weight: float
    changes: Mapping[str, float]
    moved: Mapping[str, bool]

    def __str__(self) -> str:
        parts = {"weights": self.weight, **self.changes}
        return "clipped: " + ", ".join(f"{name} times {factor:.3g}" for name, factor in parts.items() if factor < 1)

    @property
    def whole(self) -> bool:
        """Whether it leaves an update as it is."""
        return min([self.weight, *self.changes.values()]) >= 1


def clips(facts: Mapping[ClientId, Facts], most: float) -> Mapping[ClientId, Clip]:
    """What each update is multiplied by, so that no weight or change exceeds the median by more than `most`."""
    weights = _factors({client: own.weights for client, own in facts.items()}, most)
    changes = {
        kind: {client: {kind: change.norm} for client, change in of.items()} for kind, of in by_kind(facts).items()
    }
    by_client = {kind: _factors(norms, most) for kind, norms in changes.items()}
    moved = {kind: is_moved(facts, kind) for kind in changes}
    return {
        client: Clip(weights[client], {kind: of[client] for kind, of in by_client.items() if client in of}, moved)
        for client in facts
    }


def clipped(entries: Sequence[Entry], received: Tensors, clip: Clip) -> Tensors:
    """The update with its weights and changes made smaller; counts become fractions."""
    return {entry.name: _smaller(entry, received, clip) for entry in entries}


def _smaller(entry: Entry, received: Tensors, clip: Clip) -> Tensor:
    if entry.quantity.clipped == "change":
        factor = clip.changes.get(entry.kind, 1.0)
        if factor >= 1 or not is_change(entry, received):
            return entry.tensor
        value = entry.tensor.double()
        start = received[entry.own][corner(value)].double() if clip.moved[entry.kind] else 0.0
        return start + factor * (value - start)
    if clip.weight >= 1 or entry.quantity.clipped == "nothing":
        return entry.tensor
    return clip.weight * entry.tensor.double()


def _factors(sizes: Mapping[ClientId, Mapping[str, float]], most: float) -> Mapping[ClientId, float]:
    """By client the least of `most * median / size` over all names, at most one."""
    found = dict.fromkeys(sizes, 1.0)
    for name in {name for own in sizes.values() for name in own}:
        held = {client: own[name] for client, own in sizes.items() if own.get(name, 0.0) > 0}
        for client, size in held.items():
            found[client] = min(found[client], most * median(held.values()) / size)
    return found
