"""A party's side of a round: from what it received to the bytes that it sends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedbraid.algebra import Tensors, select, without
from fedbraid.core import KEEP, Client, ClientId, Data, Method, Model, Round
from fedbraid.errors import RunError
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.exchange import IDLE, UPDATE, Answer

Side = Literal["server", "client"]


@dataclass(frozen=True)
class Work:
    """How updates are computed and sent, the same for every party of a run."""

    method: Method
    model: Model
    codec: Codec
    lift_on: Side = "server"


def answer(
    work: Work, client: ClientId, party: Client, received: Tensors, memory: Tensors, round: Round, to: str
) -> Answer:
    """The update that this party owes, or that it has no samples for the round; a fault where computing it fails.

    `memory` is what the party kept in earlier rounds, `to` names the question that is answered.
    """
    data = work.method.phase(round).data(party, round.task).remembering(memory)
    text = {"client": client, "to": to}
    if not len(data):
        return Answer(client, work.codec.encode({}, {**text, "is": IDLE}))
    try:
        sent, kept = computed(work, data, received, round)
        payload = work.codec.encode(sent, {**text, "is": UPDATE})
    except RunError as error:
        return Answer(client, fault=str(error))
    return Answer(client, payload, kept=kept)


def computed(work: Work, data: Data, received: Tensors, round: Round) -> tuple[Tensors, Tensors]:
    """(what is sent, what the party keeps for itself) of these samples."""
    phase = work.method.phase(round)
    update = phase.client_update(work.model, received, data, round)
    sent = without(update, KEEP)
    return (phase.lift(received, sent, round) if work.lift_on == "client" else sent), select(update, KEEP)
