"""The sum of a round as it comes together: answers come in any order, they add in the order of client ids.

accept ... refuse    as answers come
close                nobody answers any more
select               in robust mode: who of those accepted is merged (see `robust`)
finish               what waits is added
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedbraid.algebra import Statistic, Sum, Tensors
from fedbraid.core import ClientId, Outcome, Refusal, Round
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.exchange import Answer
from fedbraid.runtimes.journal import Journal
from fedbraid.runtimes.robust import Clip, Cohort, Verdict, clipped
from fedbraid.runtimes.rules import faults
from fedbraid.wire import entries


class Gathering:
    """Who of a cohort has answered what, and the sum of those whose turn has come.

    An update is added when all clients before it are settled, so that the bits do not depend on who was faster; until
    then it lies in the journal. Where updates are `compared`, all lie there until the round is closed.
    """

    def __init__(
        self,
        work: Work,
        received: Tensors,
        round: Round,
        cohort: Sequence[ClientId],
        journal: Journal,
        *,
        compared: Cohort | None = None,
    ) -> None:
        self.order: Sequence[ClientId] = sorted(cohort)
        self._work = work
        self._received = received
        self._round = round
        self._journal = journal
        self._compared = compared
        self._clips: Mapping[ClientId, Clip] = {}
        self._accepted: set[ClientId] = set()
        self._idle: set[ClientId] = set()
        self._missing = dict.fromkeys(self.order)
        self._refused: dict[ClientId, Refusal] = {}
        self._failed: dict[ClientId, str] = {}
        self._lasting: set[ClientId] = set()
        self._down = dict[ClientId, int]()
        self._up = dict[ClientId, int]()
        self._values = dict[ClientId, int]()
        self._total, self._watched = Sum(), Sum()
        self._turn = 0

    def missing(self) -> list[ClientId]:
        """Those who may still answer, also those who failed to."""
        return [*self._missing]

    def awaits(self, client: ClientId) -> bool:
        """Whether this client is one of them."""
        return client in self._missing

    def answered(self) -> list[ClientId]:
        return [client for client in self.order if client in self._accepted or client in self._idle]

    def reported(self) -> list[ClientId]:
        return [client for client in self.order if client in self._accepted]

    def faults(self) -> str:
        """Why some have not answered, as text: the first few."""
        return faults(self._failed, self._refused)

    def sent(self, client: ClientId, size: int) -> None:
        self._down[client] = self._down.get(client, 0) + size

    def accept(self, answer: Answer, tensors: Tensors) -> None:
        """Takes an update that has passed all checks; `tensors` are those of its payload."""
        client = answer.client
        self._settle(client)
        self._accepted.add(client)
        self._up[client] = len(answer.payload)
        self._values[client] = sum(tensor.numel() for tensor in tensors.values())
        self._journal.add(answer)
        if self._compared:
            self._compared.add(client, tensors)
        self._advance(client, tensors)

    def sit_out(self, client: ClientId) -> None:
        """Takes note that a client has no samples for the round."""
        self._settle(client)
        self._idle.add(client)
        self._advance()

    def refuse(self, refusal: Refusal) -> None:
        self._settle(refusal.client)
        self._refused[refusal.client] = refusal
        self._advance()

    def fail(self, client: ClientId, reason: str, *, lasting: bool = False) -> None:
        """Takes note of why there is no answer; it may come yet, unless that is `lasting`."""
        self._failed[client] = reason
        (self._lasting.add if lasting else self._lasting.discard)(client)

    def lasting(self) -> bool:
        """Whether nobody is missing who may answer when asked at another time."""
        return self._missing.keys() <= self._lasting

    def close(self, reason: str) -> None:
        """Nobody answers any more; `reason` is why, of those who said nothing."""
        for client in self._missing:
            self._failed.setdefault(client, reason)

    def select(self) -> Verdict:
        """Refuses those accepted that are strange among the others, or has all made smaller."""
        verdict = self._compared.verdict() if self._compared else Verdict()
        self._refused |= verdict.refused
        self._accepted -= verdict.refused.keys()
        self._clips = verdict.clips
        return verdict

    def finish(self) -> None:
        """Adds what waited for clients that did not answer, or for the others to be compared with."""
        while self._turn < len(self.order):
            self._add_next()

    def outcome(self, seconds: float) -> Outcome:
        return Outcome(
            self._total.statistic(),
            reported=tuple(self.reported()),
            idle=tuple(client for client in self.order if client in self._idle),
            bytes_up=self._ordered(self._up),
            bytes_down=self._ordered(self._down),
            seconds=seconds,
            values_up=self._ordered(self._values),
            watched=self._watched.statistic(),
            refused={client: self._refused[client] for client in self.order if client in self._refused},
            failed={client: self._failed[client] for client in self.order if client in self._failed},
            clipped={client: str(self._clips[client]) for client in self.order if client in self._clips},
        )

    def _settle(self, client: ClientId) -> None:
        """Nothing of this client is waited for any more."""
        self._missing.pop(client, None)
        self._failed.pop(client, None)

    def _advance(self, client: ClientId = "", tensors: Tensors | None = None) -> None:
        """Adds all updates whose turn has come; `tensors` are the client's, which need not be read again."""
        if self._compared:
            return
        while self._turn < len(self.order) and self.order[self._turn] not in self._missing:
            self._add_next(tensors if self.order[self._turn] == client else None)

    def _add_next(self, tensors: Tensors | None = None) -> None:
        client = self.order[self._turn]
        self._turn += 1
        if client not in self._accepted:
            return
        payload = self._journal.take(client, read=tensors is None)
        update = self._work.codec.decode(payload).tensors if tensors is None else tensors
        if client in self._clips:
            told = entries(update, self._work.gives(self._round))
            update = clipped(told, self._received, self._clips[client])
        phase = self._work.method.phase(self._round)
        if self._work.lift_on == "client":
            self._total.add(Statistic(update))
            return
        self._total.add(phase.lift(self._received, update, self._round))
        self._watched.add(phase.watch(self._received, update, self._round))

    def _ordered(self, sizes: dict[ClientId, int]) -> dict[ClientId, int]:
        return {client: sizes[client] for client in self.order if client in sizes}
