"""The server's side of a round, whatever carries the messages: ask, check, wait, add.

    question    what is new to a party (see `delivery`); every answer names the question that it is to
    answer      checked whole before anything changes (see `gate`), then kept in the journal until its turn
    sum         in the order of client ids, in fp64 (see `gathering`)
    end         all have answered, or the deadline: with a quorum what has come is merged, without one the run pauses

A party that fails, is late or is refused costs itself the round and nothing else; the outcome names it and the reason.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from fedbraid.algebra import ZERO, Tensors
from fedbraid.core import EVALUATE, ClientId, Outcome, Refusal, Round
from fedbraid.errors import StoppedRun, UserError
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.delivery import Delivery, News
from fedbraid.runtimes.exchange import IDLE, LOST, Answer, Transport, spell
from fedbraid.runtimes.gate import Gate, admitted
from fedbraid.runtimes.gathering import Gathering
from fedbraid.runtimes.journal import Journal

Tell = Callable[..., None]
"""Takes note of what happens, for who watches the run: `tell("received", client=..., bytes=...)`."""


def tell_nobody(_what: str, **_facts: Any) -> None:
    """For runs that nobody watches."""


@dataclass(frozen=True)
class Rules:
    """When a round ends. `deadline` is in seconds, `quorum` the share of the cohort that must have answered.

    A party that fails is asked again up to `retries` times while there is time.
    """

    deadline: float | None = None
    quorum: float = 1.0
    retries: int = 0

    def needed(self, cohort: int) -> int:
        """How many of a cohort must have answered: at least one."""
        return max(1, math.ceil(self.quorum * cohort - 1e-9))


class Server:
    """A runtime over a transport. `run` names the run in every message, `memory` is what an earlier one's gave.

    Without a `gate` whatever is a message to this question is added.
    """

    def __init__(
        self,
        work: Work,
        transport: Transport,
        *,
        rules: Rules | None = None,
        run: str = "",
        memory: Mapping[str, Any] | None = None,
        journal: Journal | None = None,
        gate: Gate | None = None,
        tell: Tell = tell_nobody,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._transport = transport
        self._rules = rules or Rules()
        self._run = run
        self._delivery = Delivery(memory)
        self._journal = journal or Journal()
        self._gate = gate
        self._tell = tell
        self._clock = clock
        self._messages: dict[News, bytes] = {}

    @property
    def clients(self) -> Sequence[ClientId]:
        return self._transport.clients

    @property
    def evaluators(self) -> Sequence[ClientId]:
        return self._transport.evaluators

    def memory(self) -> Mapping[str, Any]:
        """What a resumed runtime needs to know of the messages sent so far."""
        return self._delivery.memory()

    def kept(self) -> Tensors:
        """What parties of this process keep for themselves between rounds, as `<client>/<name>`."""
        return self._transport.kept()

    def sum(self, shared: Tensors, round: Round, cohort: Sequence[ClientId]) -> Outcome:
        """The sum of the cohort's statistics.

        Raises `StoppedRun` where fewer than the quorum have answered when the round ends; what has come stays in the
        journal, and the same round of a resumed run begins with it.
        """
        if not cohort:
            return Outcome(ZERO)
        begin = self._clock()
        received = self._broadcast(shared)
        self._delivery.publish(received)
        self._messages.clear()
        to = self._to(round)
        gathering = Gathering(self._work, received, round, cohort, self._journal)
        rules, order = self._rules, list(gathering.order)
        self._tell("round", round=spell(round), cohort=order, deadline=rules.deadline, needed=rules.needed(len(order)))
        if self._gate:
            self._gate.begin(received, round, order)
        with closing(self._answers(_Question(shared, received, round, to), gathering)) as answers:
            for found in answers:
                self._take(found, to, gathering)
        for client in gathering.missing():
            self._delivery.forget(client)  # who knows what has arrived
        gathering.finish(f"no answer within {self._rules.deadline} s")
        self._check(round, gathering)
        outcome = gathering.outcome(self._clock() - begin)
        self._tell("merged", round=spell(round), reported=list(outcome.reported), seconds=outcome.seconds)
        return outcome

    def _broadcast(self, shared: Tensors) -> Tensors:
        """The shared tensors as every party has them: rounded by the codec, decoded once for all of them."""
        codec = self._work.codec
        return codec.decode(codec.encode(shared)).tensors

    def _to(self, round: Round) -> str:
        """What answers to this question name: a hash of run, round and everything shared."""
        text = f"{self._run}\n{spell(round)}\n{self._delivery.digest()}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _answers(self, question: _Question, gathering: Gathering) -> Generator[Answer]:
        """Those of the journal, then those of the transport, until all are there or the time is over."""
        over = math.inf if self._rules.deadline is None else self._clock() + self._rules.deadline
        messages = self._messages_for(
            question, gathering, gathering.order
        )  # also to those in the journal: it is theirs
        for found in self._journal.begin(question.to):
            if found.client in messages:
                self._transport.keep(found.client, found.kept)
                yield found
        for attempt in range(1 + self._rules.retries):
            missing = gathering.missing()
            if not missing or self._clock() >= over:
                return
            if attempt:
                for client in missing:
                    self._delivery.forget(client)
                messages = self._messages_for(question, gathering, missing)
                self._tell("again", clients=missing)
            asked = {client: messages[client] for client in missing}
            with closing(self._transport.ask(asked, question.received, question.round)) as coming:
                for found in coming:
                    if found is not None:
                        yield found
                    if self._clock() >= over:
                        return

    def _messages_for(
        self, question: _Question, gathering: Gathering, clients: Sequence[ClientId]
    ) -> dict[ClientId, bytes]:
        """What each is sent: what is new to it. Clients that miss the same get the same message."""
        found: dict[ClientId, bytes] = {}
        for client in clients:
            news = self._delivery.news(client)
            if news not in self._messages:
                text = {
                    "round": spell(question.round),
                    "to": question.to,
                    "same": json.dumps(news.same),
                    "gone": json.dumps(news.gone),
                    "first": "yes" if news.first else "no",
                    "all": self._delivery.digest(),
                }
                sent = {key: question.shared[key] for key in news.send}
                self._messages[news] = self._work.codec.encode(sent, text)
            found[client] = self._messages[news]
            gathering.sent(client, len(found[client]))
        return found

    def _take(self, found: Answer, to: str, gathering: Gathering) -> None:
        """What becomes of an answer. One that comes again, or from somebody who was not asked, changes nothing."""
        client = found.client
        if client not in gathering.missing():
            self._tell("ignored", client=client, reason="it has answered already, or was not asked")
            return
        if found.fault:
            gathering.fail(client, found.fault)
            self._tell("failed", client=client, reason=found.fault)
            return
        message = admitted(found, to, self._work.codec, self._gate)
        if isinstance(message, Refusal):
            gathering.refuse(message)
            self._tell("refused", client=client, reason=str(message))
        elif message.text["is"] == IDLE:
            gathering.sit_out(client)
            self._tell("idle", client=client)
        elif message.text["is"] == LOST:
            gathering.fail(client, "it has lost what it was sent before")
            self._tell("failed", client=client, reason="it has lost what it was sent before")
        else:
            gathering.accept(found, message.tensors)
            self._tell("received", client=client, bytes=len(found.payload))

    def _check(self, round: Round, gathering: Gathering) -> None:
        """`StoppedRun` below the quorum, `UserError` where there is nothing to evaluate on."""
        cohort, answered = len(gathering.order), len(gathering.answered())
        if answered < self._rules.needed(cohort):
            needed = self._rules.needed(cohort)
            self._tell("paused", round=spell(round), answered=answered, needed=needed)
            raise StoppedRun(
                f"{round}: {answered} of {cohort} clients answered, {needed} are needed ({gathering.faults()}); "
                "the state before the round is saved, and what has come"
            )
        if round.phase == EVALUATE and not gathering.reported():
            raise UserError(f"there are no test samples of the classes seen in {round}; add some")


@dataclass(frozen=True)
class _Question:
    shared: Tensors
    received: Tensors
    round: Round
    to: str
