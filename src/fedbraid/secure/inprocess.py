"""A masked sum with all parties in this process: every step and message of the real one, without a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fedbraid.algebra import Tensors
from fedbraid.errors import UserError
from fedbraid.secure import client, server
from fedbraid.secure.server import Unmasked
from fedbraid.secure.session import ClientId, Session

STEPS = ("keys", "shares", "input", "confirmation", "reveal")
"""The messages of a client, in their order."""


def masked_sum(
    session: Session,
    updates: Mapping[ClientId, Tensors],
    *,
    identities: Mapping[ClientId, bytes] | None = None,
    lost: Mapping[ClientId, str] | None = None,
) -> Unmasked:
    """The sum of the updates; `identities` are the private ones.

    `lost` names the first message of `STEPS` that a client does not send any more, to see what becomes of the others.

    >>> import torch
    >>> from fedbraid.secure import Layout
    >>> updates = {name: {"x": torch.tensor([0.5, 1.0])} for name in ("ann", "ben", "cat", "dan")}
    >>> session = Session("run", "round 0", tuple(updates), Layout.of(updates["ann"]))
    >>> masked_sum(session, updates, lost={"ben": "input"}).total["x"].tolist()
    [1.5, 3.0]
    """
    odd = sorted({*(lost or {}).values()} - {*STEPS})
    if odd:
        raise UserError(f"no message is called {odd[0]!r}; they are {', '.join(STEPS)}")
    leaves = {name: STEPS.index(step) for name, step in (lost or {}).items()}
    signs = dict(identities or {})

    def present(names: Iterable[ClientId], step: str) -> list[ClientId]:
        return [name for name in names if leaves.get(name, len(STEPS)) > STEPS.index(step)]

    own = {c: client.advertise(session, c, identity=signs.get(c)) for c in present(session.clients, "keys")}
    keys = server.collect_keys(session, {c: message for c, (_, message) in own.items()})
    shared = {c: client.share(own[c][0], keys.advertised) for c in present(own, "shares")}
    dealt = server.collect_shares(keys, {c: boxes for c, (_, boxes) in shared.items()})
    masked = {c: client.mask(shared[c][0], updates[c], dealt.boxes[c]) for c in present(shared, "input")}
    inputs = server.collect_inputs(dealt, ((c, message) for c, (_, message) in masked.items()))
    lists = inputs.survivors, inputs.dropouts
    confirmed = {
        c: client.confirm(masked[c][0], *lists, identity=signs.get(c)) for c in present(masked, "confirmation")
    }
    signed = server.collect_confirmations(inputs, {c: message for c, (_, message) in confirmed.items()})
    reveals = {c: client.reveal(confirmed[c][0], signed.messages) for c in present(confirmed, "reveal")}
    return server.unmask(inputs, reveals)
