"""Rounds as they were, to be run again with other answers: what a gate lets pass, and what becomes of the sum."""

from __future__ import annotations

import random
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import EVALUATE, ClientId, Outcome, Round
from fedbraid.engine import run
from fedbraid.errors import RunError, UserError
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.exchange import UPDATE, Answer
from fedbraid.runtimes.gate import Gate
from fedbraid.runtimes.inprocess import InProcess
from fedbraid.runtimes.server import Rules, Server
from fedbraid.testing.malformed import KINDS, Case
from fedbraid.testing.worlds import World

TWICE = "the same answer twice"
"""A kind that is no answer by itself: an honest one comes a second time, and must count once."""
Result = Literal["accepted", "crashed", "aborted", "different", "equal"]


@dataclass(frozen=True)
class Recorded:
    """A round: what its clients received, and what they sent."""

    round: Round
    received: Tensors
    answers: Mapping[ClientId, bytes]


@dataclass(frozen=True)
class Place:
    """A client that has sent an update in a recorded round, in which others have too."""

    work: Work
    was: Recorded
    client: ClientId
    elsewhere: Sequence[bytes]
    """Its updates of other rounds."""

    def payload(self, kind: str, draw: random.Random) -> bytes | None:
        """A malformed answer in the place of the honest one; None where none of this kind can be made of it."""
        own = self.was.answers[self.client]
        others = [payload for client, payload in self.was.answers.items() if client != self.client]
        return own if kind == TWICE else KINDS[kind](Case(self.client, own, others, self.elsewhere), draw)

    def answers(self, payload: bytes | None) -> list[Answer]:
        """All answers of the round, this client's replaced; or left out."""
        sent = {**self.was.answers, self.client: payload}
        return [Answer(client, answer) for client, answer in sent.items() if answer is not None]


def recorded(work: Work, world: World, *, seed: int = 0, gate: Gate | None = None) -> list[Recorded]:
    """The rounds of a whole run in which clients were asked, evaluations left out."""
    transport = _Recording(work, world)
    server = Server(work, transport, gate=gate)
    for _ in run(work.method, work.model, world.tasks, server, seed=seed, evaluate="task"):
        pass
    return transport.rounds


def places(work: Work, rounds: Sequence[Recorded]) -> list[Place]:
    """Every update of the rounds that is not the only one of its round."""
    sent = [{c: payload for c, payload in was.answers.items() if is_update(work, payload)} for was in rounds]
    return [
        Place(work, was, client, [other[client] for other in sent if other is not own and client in other])
        for was, own in zip(rounds, sent, strict=True)
        for client in (own if len(own) > 1 else ())
    ]


def is_update(work: Work, payload: bytes) -> bool:
    return work.codec.text(payload)["is"] == UPDATE


def replay(work: Work, was: Recorded, answers: Sequence[Answer], *, gate: Gate | None = None) -> Outcome:
    """The round with these answers, in this order; whoever sends none is missing."""
    server = Server(work, _Replayed(sorted(was.answers), answers), gate=gate, rules=Rules(quorum=1e-6))
    return server.sum(was.received, was.round, sorted(was.answers))


def judged(kind: str, place: Place, payload: bytes) -> tuple[Result, Outcome | Exception]:
    """What becomes of a round through a gate with a malformed answer in it: `equal` is the sum of the others, bit for
    bit, with the sender refused and nobody else."""
    sent = place.answers(payload) + ([Answer(place.client, payload)] if kind == TWICE else [])
    try:
        outcome = replay(place.work, place.was, sent, gate=Gate(place.work))
    except (RunError, UserError) as error:
        return "aborted", error
    except Exception as error:
        return "crashed", error
    if kind != TWICE and place.client in outcome.reported:
        return "accepted", outcome
    expected = replay(place.work, place.was, place.answers(payload if kind == TWICE else None))
    refused = [] if kind == TWICE else [place.client]
    return ("equal" if [*outcome.refused] == refused and _same(outcome, expected) else "different"), outcome


def _same(one: Outcome, other: Outcome) -> bool:
    equal = one.total.keys() == other.total.keys() and one.reported == other.reported
    return equal and all(torch.equal(value, other.total[key]) for key, value in one.total.items())


class _Recording(InProcess):
    """Takes note of every round but evaluations."""

    def __init__(self, work: Work, world: World) -> None:
        super().__init__(work, world.clients, world.evaluators)
        self.rounds: list[Recorded] = []

    def ask(self, questions: Mapping[ClientId, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        answers: dict[ClientId, bytes] = {}
        for found in super().ask(questions, received, round):
            if found is not None:
                answers[found.client] = found.payload
            yield found
        if round.phase != EVALUATE:
            self.rounds.append(Recorded(round, received, answers))


@dataclass
class _Replayed:
    """A transport that brings the same answers whatever is asked."""

    clients: Sequence[ClientId]
    answers: Sequence[Answer]
    evaluators: Sequence[ClientId] = ()
    nothing: Tensors = field(default_factory=dict[str, Tensor])

    def ask(
        self,
        questions: Mapping[ClientId, bytes],  # noqa: ARG002
        received: Tensors,  # noqa: ARG002
        round: Round,  # noqa: ARG002
    ) -> Generator[Answer | None]:
        yield from self.answers

    def kept(self) -> Tensors:
        return self.nothing

    def keep(self, client: ClientId, kept: Tensors) -> None:
        """Nothing is kept: no update is computed."""

    def close(self) -> None:
        """There is nothing to end."""
