"""Which sums a client has opened, and with whom: of sums that belong together it opens those of the same clients alone.

A masked sum hides a client among the others. Two sums that differ by one client, while the others gave the same to
both, hide nothing: their difference is that client's statistic. So a client remembers every sum that it opened for as
long as it lives. Sums belong together where one of these is the same:

    question     configuration, round and all shared tensors, whatever the run is called
    statistic    this client's own words, whatever is asked: closed forms are the same in every round
    round        task, phase, number and seed, whatever else is asked: tensors that a last bit tells apart are as good
                 as the same ones
    samples      of some classes, where a round trains nothing: what is measured of the same samples, say their Gram in
                 two parts, is the same by and large under every seed, number, phase and setting. Classes go by the
                 names that the data have: their order, and so their numbers, are the server's to choose

Of the same question it also gives the same statistic or none: where its samples have changed, the difference is what
has come. A statistic of zeros is no secret, and belongs to no other.

This is stricter than the threshold, below which two cohorts must not differ: a cohort that differs by more is refused
too, since what several sums together say about a client is not to be worked out at every reveal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from fedbraid.core import ClientId, Round
from fedbraid.errors import RunError
from fedbraid.privacy.account import EVERYTHING

_TOLD = 3
"""So many clients are named in an error."""


@dataclass(frozen=True)
class Summand:
    """What a client gives to a sum, known by digests: the question, the round, its words (empty for zeros).

    `classes` are the names of those whose samples it measures, or `EVERYTHING`; none where it trains.
    """

    question: str
    round: str
    statistic: str
    classes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class OpenedSum:
    """A sum that a client has opened: what it gave, and whose statistics were in it."""

    summand: Summand
    survivors: tuple[ClientId, ...]


def known_as(round: Round) -> str:
    """A round as a client remembers it: all that its randomness is drawn from.

    >>> from fedbraid.core import Task
    >>> known_as(Round(Task(0, (0, 2)), "train", 3, seed=7))
    'task 0, train round 3, seed 7'
    """
    return f"{round}, seed {round.seed}"


def check_input(client: ClientId, given: Summand, dealers: Collection[ClientId], before: Iterable[OpenedSum]) -> None:
    """`RunError` where this client must not give its words, whoever of the dealers survives.

    It is looked at before the words leave: the others could open a sum that this client refuses to reveal.
    """
    for sum in before:
        if sum.summand.question == given.question and sum.summand.statistic != given.statistic:
            raise RunError(
                f"client {client!r} refuses the sum: it has opened one of this round before, and what it computes now "
                "is not what it gave then; the difference would be disclosed. Restore its samples and its version, or "
                "begin a new run with another run.seed"
            )
        gone = {*sum.survivors} - {*dealers}
        if gone and _belong(sum.summand, given):
            raise _refusal(client, given, sum, gone, "missing")


def check_survivors(
    client: ClientId, given: Summand, survivors: Collection[ClientId], before: Iterable[OpenedSum]
) -> None:
    """`RunError` where a sum over these survivors must not be opened by this client."""
    for sum in before:
        gone, new = {*sum.survivors} - {*survivors}, {*survivors} - {*sum.survivors}
        if (gone or new) and _belong(sum.summand, given):
            raise _refusal(client, given, sum, gone or new, "missing" if gone else "new")


def _belong(one: Summand, other: Summand) -> bool:
    return _same_round(one, other) or _same_statistic(one, other) or _same_samples(one, other)


def _same_round(one: Summand, other: Summand) -> bool:
    return one.question == other.question or one.round == other.round


def _same_statistic(one: Summand, other: Summand) -> bool:
    return bool(one.statistic) and one.statistic == other.statistic


def _same_samples(one: Summand, other: Summand) -> bool:
    everything = EVERYTHING in one.classes | other.classes
    both = one.classes and other.classes if everything else one.classes & other.classes
    return bool(one.statistic and other.statistic and both)


def _refusal(client: ClientId, given: Summand, sum: OpenedSum, odd: Collection[ClientId], what: str) -> RunError:
    names = ", ".join(map(repr, sorted(odd)[:_TOLD])) + (f" and {len(odd) - _TOLD} more" if len(odd) > _TOLD else "")
    same, way = "of this round", ""
    if not _same_round(sum.summand, given):
        what_is_same = "statistic" if _same_statistic(sum.summand, given) else "samples"
        same = f"of the same {what_is_same} ({sum.summand.round})"
    elif not _same_samples(sum.summand, given):
        way = ", or begin a new run with another run.seed"
    return RunError(
        f"client {client!r} refuses the sum: it has opened one {same} before, with other clients ({what} now: {names})"
        f"; two such sums disclose what a client gave; resume the run when the clients are the same again{way}"
    )
