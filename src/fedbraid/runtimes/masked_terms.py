"""What a masked sum is made of: its terms, which all clients must agree to, and what its result must keep to.

The layout is that of the lifted statistic, as a rehearsal of a client's own step says (see `rehearsal`). Numbers have
24 bits after the point: an error of at most `n 2^-25`, and room for `2^39 / n`. Three kinds have more, as what is made
of them depends on small ones, and less room. Which kind has how many says the name alone: no client's numbers move the
point.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from fedbraid.algebra import Statistic, Tensors
from fedbraid.core import ClientId
from fedbraid.errors import RunError, UserError
from fedbraid.runtimes.asking import Question
from fedbraid.runtimes.client import Masking, Work
from fedbraid.runtimes.exchange import spell
from fedbraid.runtimes.gram_rules import grams
from fedbraid.runtimes.limits import PREFIX, Limits, named, samples_of, sizes, whole
from fedbraid.runtimes.rehearsal import rehearse
from fedbraid.secure import Layout, Session
from fedbraid.secure.ciphers import digest
from fedbraid.secure.fixed_point import FRACTION, Entry

FRACTIONS = {"fisher": 40, "weighted": 40, "positive": 36, "negative": 36}
"""Bits after the point of kinds that have more than usual: sums of squared gradients, by which others are divided, and
sums of changes whose sign is elected."""


def session_of(
    work: Work, masking: Masking, question: Question, clients: Sequence[ClientId], *, all: str, quorum: int
) -> Session:
    """The terms of a sum under a name that no other has; `UserError` where there are none.

    `all` is the digest of what is shared. The threshold is that of the settings, or `quorum` where that is more.
    """
    order, what = tuple(sorted(clients)), name_of(spell(question.round), all)
    name = f"{question.round}, sum {secrets.token_hex(8)}"
    least = Session(what, name, order, Layout(()), masking.threshold).needed
    identities = {client: masking.identities[client] for client in order if client in masking.identities}
    layout = layout_of(work, order[0], question)
    return Session(what, name, order, layout, max(least, quorum), identities)


def name_of(round: str, all: str) -> str:
    """What is summed, whoever takes part and however often: a client's update is a function of nothing else."""
    return digest("what is summed", round, all).hex()[:32]


def layout_of(work: Work, client: ClientId, question: Question) -> Layout:
    """Where the numbers of this round's statistic stand."""
    form = rehearse(replace(work, lift_on="client"), client, question.received, question.round)
    own = [key for key in form.tensors if names_clients(key)]
    if own:
        raise UserError(
            f"{question.round}: clients send {own[0]!r}, which is one client's own, and no sum hides it; choose a "
            "method whose messages are sums, or secure.masked = false"
        )
    return Layout(
        tuple(
            Entry(key, shape, "float64" if dtype.is_floating_point else "int64", fraction(key))
            for key, (dtype, shape) in sorted(form.tensors.items())
        )
    )


def fraction(key: str) -> int:
    """How many bits of the numbers of this name stand after the point."""
    return FRACTIONS.get(PREFIX.sub("", key).split("/", 1)[0], FRACTION)


def names_clients(key: str) -> bool:
    """Whether a tensor is one client's by its name."""
    return key.startswith("client/") or "/client/" in key


def check_total(total: Statistic, received: Tensors, limits: Limits, clients: int) -> None:
    """`RunError` for a sum that so many clients cannot have: too large, below zero, counts that are not whole, a Gram
    that is one of no vectors."""
    wide = replace(limits, samples=limits.samples * clients, trace=limits.trace * clients)
    entries = named(total)
    error = clients * 2.0 ** -(FRACTION + 1)
    found = chain(
        sizes(entries, received, wide, samples_of(total, wide)), whole(entries), grams(entries, wide, error=error)
    )
    breach = next(found, None)
    if breach:
        against = f" (allowed: {breach.limit})" if breach.limit else ""
        raise RunError(
            f"the sum of {clients} clients cannot be: {breach.tensor}: {breach.rule}: {breach.value}{against}; one of "
            "them has sent what is no update, and a masked sum does not tell which"
        )
