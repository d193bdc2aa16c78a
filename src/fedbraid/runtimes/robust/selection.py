"""Select, then solve exactly: false updates are left out of a round, the others are merged as if they were alone.

The gate (see `runtimes.gate`) looks at one update and stops what is impossible. What is possible and false shows only
beside the others. So nothing is added until the round ends: of every update a few facts are kept (see `facts`), the
facts are compared (see `comparisons`), and who breaks away is refused with the rule, the value and the limit. The
others are read again from the journal and added in the order of client ids. So the sum is bit for bit that of the
honest alone where all others are refused, and the same as without robust mode where nobody is.

Of fewer than `FEWEST` updates nothing can be said. Where more than a share would be refused, the medians themselves are
in doubt: then nobody is refused, and all are clipped (see `clipping`) or the run pauses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fedbraid.algebra import Tensors
from fedbraid.core import ClientId, Refusal, Round
from fedbraid.quantities import Gives
from fedbraid.runtimes.robust.clipping import Clip, clips
from fedbraid.runtimes.robust.comparisons import Comparison, compared, directions
from fedbraid.runtimes.robust.facts import Facts, facts_of
from fedbraid.runtimes.robust.thresholds import FEWEST, Thresholds
from fedbraid.wire import entries


@dataclass(frozen=True)
class Verdict:
    """Who is left out of a round and why, or what of whom is made smaller. `doubt` says why nobody was refused."""

    refused: Mapping[ClientId, Refusal] = field(default_factory=dict[ClientId, Refusal])
    clips: Mapping[ClientId, Clip] = field(default_factory=dict[ClientId, Clip])
    doubt: str = ""
    pause: bool = False


class Cohort:
    """The updates of one round as facts; memory is a few numbers a tensor and client, and a sketch a kind."""

    def __init__(self, thresholds: Thresholds, received: Tensors, round: Round, gives: Gives) -> None:
        self._thresholds = thresholds
        self._received = received
        self._round = round
        self._gives = gives
        self._facts: dict[ClientId, Facts] = {}

    def add(self, client: ClientId, tensors: Tensors) -> None:
        """Takes note of an update that has passed the gate."""
        self._facts[client] = facts_of(entries(tensors, self._gives), self._received, self._round)

    def verdict(self) -> Verdict:
        """What becomes of all that were added; the same in whatever order they came."""
        facts = {client: self._facts[client] for client in sorted(self._facts)}
        if len(facts) < FEWEST:
            return Verdict(doubt=f"{len(facts)} updates: of fewer than {FEWEST} nothing is refused for being strange")
        refused = selected(facts, self._thresholds, len(self._round.task.classes))
        most = self._thresholds.most
        if len(refused) <= most * len(facts) + 1e-9:
            return Verdict(refused)
        first = "; ".join(str(refusal) for refusal in [*refused.values()][:2])
        doubt = f"{len(refused)} of {len(facts)} updates are strange, more than {100 * most:.0f} %: {first}"
        if self._thresholds.fallback == "pause":
            return Verdict(doubt=doubt, pause=True)
        smaller = {client: clip for client, clip in clips(facts, self._thresholds.clip).items() if not clip.whole}
        return Verdict(clips=smaller, doubt=doubt)


def selected(facts: Mapping[ClientId, Facts], thresholds: Thresholds, classes: int) -> Mapping[ClientId, Refusal]:
    """Who is refused, by the first rule that it breaks: sizes first, then directions among the others."""
    refused = _refusals(compared(facts, thresholds))
    others = {client: own for client, own in facts.items() if client not in refused}
    found = {**_refusals(directions(others, thresholds, classes)), **refused}
    return {client: found[client] for client in sorted(found)}


def _refusals(comparisons: Iterable[Comparison]) -> Mapping[ClientId, Refusal]:
    found: dict[ClientId, Refusal] = {}
    for one in comparisons:
        for client in one.beyond():
            refusal = Refusal(client, one.tensor, one.rule, one.told(one.away[client]), one.told(one.limit))
            found.setdefault(client, refusal)
    return found
