"""A party's side of a round: from what it received to the bytes that it sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fedbraid.algebra import Tensors, select, without
from fedbraid.core import KEEP, Client, ClientId, Data, Method, Model, Round, Task
from fedbraid.errors import RunError
from fedbraid.privacy.account import one_by_one
from fedbraid.privacy.guard import Guard, rarest
from fedbraid.quantities import Gives
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.exchange import IDLE, UPDATE, Answer

Side = Literal["server", "client"]


@dataclass(frozen=True)
class Masking:
    """What a masked round must keep to, equal for server and clients.

    `threshold` is how many clients must take part until the end; unset: more than two thirds. `identities` are the
    clients' public keys, of all of them or of none. `terms` is a text of every setting that updates follow from.
    `samples_of` names the classes of a task as the data name them.
    """

    threshold: int | None = None
    identities: Mapping[ClientId, bytes] = field(default_factory=dict[ClientId, bytes])
    terms: str = ""
    samples_of: Callable[[Task], Sequence[str]] = one_by_one


@dataclass(frozen=True)
class Work:
    """How updates are computed and sent, the same for every party of a run; the guard is a site's own.

    With `masking` the server sees sums alone, and a site answers in no other way.
    """

    method: Method
    model: Model
    codec: Codec
    lift_on: Side = "server"
    guard: Guard | None = None
    masking: Masking | None = None

    @property
    def lifts(self) -> bool:
        """Whether updates are lifted before they leave."""
        return self.lift_on == "client"

    def gives(self, round: Round) -> Gives:
        """What a client's message of the round holds, by the beginnings of names."""
        return self.method.phase(round).gives(round, lifted=self.lifts)


def answer(
    work: Work, client: ClientId, party: Client, received: Tensors, memory: Tensors, round: Round, to: str
) -> Answer:
    """The update that this party owes, or that it has no samples for the round; a fault where computing it fails.

    `memory` is what the party kept in earlier rounds, `to` names the question that is answered.
    """
    text = {"client": client, "to": to}
    try:
        found = owed(work, client, party, received, memory, round)
        if found is None:
            return Answer(client, work.codec.encode({}, {**text, "is": IDLE}))
        payload = work.codec.encode(found[0], {**text, "is": UPDATE})
    except RunError as error:
        return Answer(client, fault=str(error), error=error)
    return Answer(client, payload, kept=found[1])


def owed(
    work: Work, client: ClientId, party: Client, received: Tensors, memory: Tensors, round: Round
) -> tuple[Tensors, Tensors] | None:
    """(what is sent, what the party keeps for itself), as its guard lets pass; None without samples for the round."""
    data = work.method.phase(round).data(party, round.task).remembering(memory)
    guard = work.guard
    if not len(data) and not (guard and guard.private(round)):
        return None
    if guard:
        data = guard.admit(data, received, round)
    sent, kept = computed(work, data, received, round)
    if guard:
        guard.check(sent, work.gives(round), round, client, len(data), rarest(data))
    return sent, kept


def computed(work: Work, data: Data, received: Tensors, round: Round) -> tuple[Tensors, Tensors]:
    """(what is sent, what the party keeps for itself) of these samples."""
    phase = work.method.phase(round)
    update = phase.client_update(work.model, received, data, round)
    sent = without(update, KEEP)
    return phase.lift(received, sent, round) if work.lifts else sent, select(update, KEEP)
