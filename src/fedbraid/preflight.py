"""What clients would refuse of a run, said before its first round: by task and phase, with the remedy.

A dry run of every phase of the first task shows which messages there are and how wide their Grams (see
`runtimes.dry_run`); each client compares that with the samples that it has of every task. A message on too few samples
stays (see `privacy.guard`), and a run that would meet that in its fifth round need not begin.

What a client finds may leave it: a number that the run's own settings ask for, and nothing of its samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fedbraid.core import Client, ClientId, Round
from fedbraid.errors import UserError
from fedbraid.experiment import Experiment
from fedbraid.naming import printable
from fedbraid.privacy.guard import rarest
from fedbraid.runtimes.dry_run import messages

REMEDIES = (
    "Ways out: more samples; among the run's settings (of a federation: config.toml at the server) secure.masked = "
    'true, so that sums alone are seen, for lorm method.head_merge = "averaged" or method.all_diagonal = true; or, in '
    "the site's own site.toml, least_samples and small_grams = "
    '"allow" (in one process privacy.least_samples and privacy.small_grams)'
)


class NotBegun(UserError):
    """A run that is not begun, since its clients would refuse it later."""


@dataclass(frozen=True)
class Short:
    """A message that would stay: of which task and phase, what of it, on how many samples it would have to rest."""

    task: int
    phase: str
    what: str
    needed: int

    def line(self) -> str:
        """A line of a table."""
        phase, what = printable(self.phase, 40), printable(self.what, 40)
        return f"task {self.task + 1}, {phase}: {what} needs {self.needed:,} samples"


def shorts(experiment: Experiment, party: Client) -> list[Short]:
    """What this client's guard would not let leave, each kind once; nothing where its guard lets everything leave."""
    guard = experiment.guard
    if guard is None or not guard.refuses:
        return []
    found: dict[Short, None] = {}
    for round, sent in messages(experiment.work, experiment.tasks[:1]):
        phase = experiment.method.phases[round.phase]
        for task in experiment.tasks if sent else ():
            data = phase.data(party, task)
            if len(data) and phase.tasks(task):
                here = Round(task, round.phase, round.index, round.seed)
                for what, needed in guard.short_of(sent, here, len(data), rarest(data)):
                    found[Short(task.index, round.phase, what, needed)] = None
    return sorted(found, key=lambda short: (short.task, short.phase, short.what))


def check(experiment: Experiment) -> None:
    """`NotBegun` with a table where clients of this process would refuse something of the run."""
    found = {client: shorts(experiment, party) for client, party in experiment.clients.items()}
    told = {client: [short.line() for short in some] for client, some in found.items() if some}
    if told:
        raise NotBegun(table(told))


def table(told: Mapping[ClientId, Sequence[str]]) -> str:
    """What clients refuse, client by client, and the ways out."""
    lines = [f"  {printable(client)}: {line}" for client in sorted(told) for line in told[client]]
    return "\n".join(["the run would be refused before its end, so it is not begun:", *lines, REMEDIES])


def data(some: Sequence[Short]) -> list[dict[str, Any]]:
    """Plain data, for JSON."""
    return [asdict(short) for short in some]


def read(rows: object) -> list[Short]:
    """The inverse of `data`, of what another party sent; `ValueError` for anything else."""
    if not isinstance(rows, list) or len(rows) > MOST:
        raise ValueError("no list of messages")
    return list(map(_read, rows))


MOST = 10_000
"""The most rows that are read."""


def _read(row: object) -> Short:
    match row:
        case {"task": int(task), "phase": str(phase), "what": str(what), "needed": int(needed)}:
            return Short(task, phase, what, needed)
    raise ValueError("a row that is no message")
