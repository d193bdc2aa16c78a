"""What a client holds of masked sums: its secrets of the one under way, and which ones it has opened.

    masked         the newest stage of the sum under way, in the folder of the run; none once the sum is open
    opened-sums    the sums that it has opened, in the folder of the site: they are remembered as long as that lives

In this process both lie in memory. At a site, whose next message may be another process's, they lie in files that
nobody but their owner can read. The list of opened sums only grows. It is replaced as a whole, under its checksum, so
that no crash leaves half a line of it, and a damaged one is an error: a client that does not know what it has opened
takes part in nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedbraid.checkpoint import write_durably
from fedbraid.errors import RunError
from fedbraid.runtimes.opened_sums import OpenedSum, Summand
from fedbraid.runtimes.sealed import opened, sealed
from fedbraid.secure.stages import Stage, read_stage, write_stage

STATE, SUMS = "masked", "opened-sums"


@dataclass(frozen=True)
class MaskedState:
    """The stage of the sum under way, its round, and the digest of the words that this client gave to it."""

    stage: Stage | None = None
    round: str = ""
    statistic: str = ""


class MaskedStore(Protocol):
    """The place where a client holds it."""

    def read(self) -> MaskedState: ...
    def write(self, state: MaskedState) -> None: ...
    def opened_sums(self) -> Sequence[OpenedSum]: ...
    def remember(self, sum: OpenedSum) -> None: ...


class InMemory:
    """The store of a client of this process."""

    def __init__(self) -> None:
        self._state = MaskedState()
        self._sums: dict[OpenedSum, None] = {}

    def read(self) -> MaskedState:
        return self._state

    def write(self, state: MaskedState) -> None:
        self._state = state

    def opened_sums(self) -> Sequence[OpenedSum]:
        return list(self._sums)

    def remember(self, sum: OpenedSum) -> None:
        self._sums[sum] = None


class OnDisk:
    """The store of a site: `folder` is that of a run, `home` is the site's own, whatever runs there are."""

    def __init__(self, folder: Path, home: Path) -> None:
        self._state = folder / STATE
        self._sums = home / SUMS

    def read(self) -> MaskedState:
        if not self._state.is_file():
            return MaskedState()
        found = opened(self._state)
        if found is None:
            raise RunError(f"{self._state} is damaged; remove it, and this client takes part in the next masked sum")
        facts, stage = found
        return MaskedState(read_stage(stage.decode()) if stage else None, facts["round"], facts["statistic"])

    def write(self, state: MaskedState) -> None:
        stage = write_stage(state.stage).encode() if state.stage else b""
        facts = {"round": state.round, "statistic": state.statistic}
        write_durably(self._state, sealed(facts, stage), private=True)

    def opened_sums(self) -> Sequence[OpenedSum]:
        if not self._sums.exists():
            return []
        found = opened(self._sums)
        if found is None:
            raise RunError(
                f"{self._sums} is damaged, and without it this client does not know which sums it has opened, so it "
                "takes part in none; restore the file from a copy that was made after its last masked sum"
            )
        cohorts, sums = found[0]["cohorts"], found[0]["sums"]
        return [
            OpenedSum(Summand(question, round, statistic, frozenset(classes)), tuple(cohorts[cohort]))
            for question, round, statistic, classes, cohort in sums
        ]

    def remember(self, sum: OpenedSum) -> None:
        known = list(dict.fromkeys([*self.opened_sums(), sum]))
        cohorts = {cohort: number for number, cohort in enumerate(dict.fromkeys(sum.survivors for sum in known))}
        rows = [
            [summand.question, summand.round, summand.statistic, sorted(summand.classes), cohorts[survivors]]
            for summand, survivors in ((one.summand, one.survivors) for one in known)
        ]
        write_durably(self._sums, sealed({"cohorts": list(cohorts), "sums": rows}, b""), private=True)
