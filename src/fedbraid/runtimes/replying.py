"""A site's answer to a question, bytes to bytes: what it holds, what it computes, what it keeps for the next time."""

from __future__ import annotations

from pathlib import Path

from fedbraid.core import Client, ClientId
from fedbraid.errors import RunError
from fedbraid.runtimes.client import Work, answer
from fedbraid.runtimes.exchange import LOST, read_round
from fedbraid.runtimes.holdings import Holdings
from fedbraid.runtimes.masked_client import INPUT, Asked, delivers, is_step, masked_answer
from fedbraid.runtimes.masked_state import OnDisk


def reply_to(
    question: bytes,
    work: Work,
    client: ClientId,
    party: Client,
    holdings: Holdings,
    *,
    home: Path,
    identity: bytes | None = None,
) -> bytes:
    """The answer of a site. `RunError` where it cannot be computed, or where the site's settings do not allow it.

    The holdings are those of one run, `home` is the folder of the site in all of them. `identity` is its private key,
    where masked sums are signed.
    """
    message = work.codec.decode(question)
    text = message.text
    if not {"to", "round"} <= text.keys():
        raise RunError("a question that names neither itself nor a round; run one version everywhere")
    to, round, step = text["to"], text["round"], is_step(text)
    given = holdings.answered(to)
    if given is not None:
        return given
    if work.masking and not step:
        raise RunError(f"client {client!r} takes part in masked sums alone (secure.masked in its settings)")
    received = holdings.receive(message) if delivers(text) else {}
    if received is None:
        return work.codec.encode({}, {"client": client, "to": to, "is": LOST})
    memory = holdings.kept(round)
    if step:
        asked = Asked(work, client, party, text, received, memory, identity)
        found = masked_answer(asked, OnDisk(holdings.folder, home))
    else:
        found = answer(work, client, party, received, memory, read_round(round), to)
    if found.fault:
        raise found.error or RunError(found.fault)
    holdings.answer(to, round, found.payload, found.kept if text.get("step", INPUT) == INPUT else None)
    return found.payload
