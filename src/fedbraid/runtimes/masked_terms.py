"""What a masked sum is made of: its terms, which all clients must agree to, and what its result must keep to.

The layout is that of the lifted statistic, as a dry run of a client's own step says (see `dry_run`). How many bits of a
number stand after the point says its quantity (see `quantities`), at the server as at the client: no client's numbers
move the point, and no server's word does.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from fedbraid.algebra import Statistic, Tensors, raw
from fedbraid.core import ClientId, Round
from fedbraid.errors import RunError, UserError
from fedbraid.quantities import BITS, Gives
from fedbraid.runtimes.asking import Question
from fedbraid.runtimes.client import Masking, Work
from fedbraid.runtimes.dry_run import dry_run
from fedbraid.runtimes.exchange import spell
from fedbraid.runtimes.gram_rules import grams
from fedbraid.runtimes.limits import Limits, sizes, whole
from fedbraid.secure import Layout, Session
from fedbraid.secure.ciphers import digest
from fedbraid.secure.fixed_point import Entry, encode
from fedbraid.wire import entries, fraction, samples_behind


def session_of(
    work: Work, masking: Masking, question: Question, clients: Sequence[ClientId], *, quorum: int
) -> Session:
    """The terms of a sum under a name that no other has; `UserError` where there are none.

    The threshold is that of the settings, or `quorum` where that is more.
    """
    order, what = tuple(sorted(clients)), name_of(masking.terms, question.round, question.received)
    name = f"{question.round}, sum {secrets.token_hex(8)}"
    least = Session(what, name, order, Layout(()), masking.threshold).needed
    identities = {client: masking.identities[client] for client in order if client in masking.identities}
    layout = layout_of(work, order[0], question)
    return Session(what, name, order, layout, max(least, quorum), identities)


def name_of(terms: str, round: Round, received: Tensors) -> str:
    """The digest of what is summed, whoever takes part and however often: an update is a function of nothing else.

    Each tensor has a whole SHA-256: a server that found two with one digest could give a client another one than the
    others, and so single it out.
    """
    parts: list[str | bytes] = []
    for name in sorted(received):
        tensor = received[name]
        parts += [name, f"{tensor.dtype} {tuple(tensor.shape)}", hashlib.sha256(raw(tensor)).digest()]
    return digest("what is summed", terms, spell(round), *parts).hex()


def statistic_of(session: Session, statistic: Tensors) -> str:
    """The digest of one client's words before they are masked; empty for zeros, which are nobody's secret."""
    words = encode(session.layout, statistic, clients=len(session.clients))
    return digest("one client's words", session.layout.digest, words.tobytes()).hex() if words.any() else ""


def layout_of(work: Work, client: ClientId, question: Question) -> Layout:
    """Where the numbers of this round's statistic stand."""
    schema = dry_run(replace(work, lift_on="client"), client, question.received, question.round)
    own = next((name for name in schema.tensors if fraction(name, schema.gives) is None), None)
    if own:
        raise UserError(
            f"{question.round}: clients send {own!r}, which is one client's own, and no sum hides it; choose a "
            "method whose messages are sums, or secure.masked = false"
        )
    return Layout(
        tuple(
            Entry(name, shape, "float64" if dtype.is_floating_point else "int64", fraction(name, schema.gives) or 0)
            for name, (dtype, shape) in sorted(schema.tensors.items())
        )
    )


def check_total(total: Statistic, gives: Gives, received: Tensors, limits: Limits, clients: int) -> None:
    """`RunError` for a sum that so many clients cannot have: too large, below zero, counts that are not whole, a Gram
    that is one of no vectors."""
    wide = replace(limits, samples=limits.samples * clients, trace=limits.trace * clients)
    found = entries(total, gives)
    samples = samples_behind(found)
    broken = chain(
        sizes(found, received, wide, wide.samples if samples is None else samples),
        whole(found),
        grams(found, wide, error=clients * 2.0 ** -(BITS + 1)),
    )
    violation = next(broken, None)
    if violation:
        against = f" (allowed: {violation.limit})" if violation.limit else ""
        raise RunError(
            f"the sum of {clients} clients cannot be: {violation.tensor}: {violation.rule}: {violation.value}{against}"
            "; one of them has sent what is no update, and a masked sum does not tell which"
        )
