"""The server's side of a round, whatever carries the messages: ask, check, wait, add.

    question    what is new to a party (see `delivery`); every answer names the question that it is to
    answer      checked whole before anything changes (see `gate`), then kept in the journal until its turn
    compared    in robust mode with the others, when all are there (see `robust`)
    sum         in the order of client ids, in fp64 (see `gathering`)
    end         all have answered, or the deadline: with a quorum what has come is merged, without one the run pauses

A party that fails, is late or is refused costs itself the round and nothing else; the outcome names it and the reason.
Where the work is masked, rounds are those of `masked_server`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

from fedbraid.algebra import ZERO, Tensors
from fedbraid.core import EVALUATE, ClientId, Outcome, Refusal, Round
from fedbraid.errors import StoppedRun, UserError
from fedbraid.runtimes.asking import Asking, Question
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.exchange import IDLE, LOST, Answer, Transport, spell
from fedbraid.runtimes.faults import SETTLED, lasts
from fedbraid.runtimes.gate import Gate, admitted
from fedbraid.runtimes.gathering import Gathering
from fedbraid.runtimes.journal import Journal
from fedbraid.runtimes.masked_server import MaskedRound
from fedbraid.runtimes.masked_terms import session_of
from fedbraid.runtimes.robust import Cohort, Thresholds
from fedbraid.runtimes.rules import Rules, Tell, tell_nobody


class Server:
    """A runtime over a transport. `run` names the run in every message, `memory` is what an earlier one's gave.

    Without a `gate` whatever is a message to this question is added. `robust` are the limits of robust mode.
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
        robust: Thresholds | None = None,
        tell: Tell = tell_nobody,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._transport = transport
        self._rules = rules or Rules()
        self._asking = Asking(work.codec, transport, rules=self._rules, run=run, memory=memory, tell=tell, clock=clock)
        self._journal = journal or Journal()
        self._gate = gate
        self._robust = robust
        self._doubted = False
        self._tell = tell
        self._clock = clock

    @property
    def clients(self) -> Sequence[ClientId]:
        return self._transport.clients

    @property
    def evaluators(self) -> Sequence[ClientId]:
        return self._transport.evaluators

    def memory(self) -> Mapping[str, Any]:
        """What a resumed runtime needs to know of the messages sent so far."""
        return self._asking.delivery.memory()

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
        question = self._asking.begin(shared, round)
        outcome = self._masked(question, cohort) if self._is_masked(round) else self._clear(question, cohort, begin)
        if round.phase == EVALUATE and not outcome.reported:
            raise UserError(f"there are no test samples of the classes seen in {round}; add some")
        self._tell("merged", round=spell(round), reported=list(outcome.reported), seconds=outcome.seconds)
        return outcome

    def _is_masked(self, round: Round) -> bool:
        """Evaluations are not where one party has all test samples, which then is no client's."""
        return self._work.masking is not None and (round.phase != EVALUATE or len(self.evaluators) > 1)

    def _masked(self, question: Question, cohort: Sequence[ClientId]) -> Outcome:
        assert self._work.masking
        quorum = self._rules.needed(len(cohort))
        session = session_of(self._work, self._work.masking, question, cohort, quorum=quorum)
        gives = self._work.method.phase(question.round).gives(question.round, lifted=True)
        return MaskedRound(self._asking, question, session, gives).sum(self._gate.limits if self._gate else None)

    def _clear(self, question: Question, cohort: Sequence[ClientId], begin: float) -> Outcome:
        round = question.round
        compared = None
        if self._robust and round.phase != EVALUATE:
            compared = Cohort(self._robust, question.received, round, self._work.gives(round))
        gathering = Gathering(self._work, question.received, round, cohort, self._journal, compared=compared)
        rules, order = self._rules, list(gathering.order)
        self._tell("round", round=spell(round), cohort=order, deadline=rules.deadline, needed=rules.needed(len(order)))
        if self._gate:
            self._gate.begin(question.received, round, order)
        with closing(self._answers(question, gathering, rules.over(self._clock()))) as answers:
            for found in answers:
                self._take(found, question.to, gathering)
        self._asking.forget(gathering.missing())
        gathering.close(f"no answer within {rules.deadline} s")
        self._check(round, gathering)
        self._select(round, gathering)
        gathering.finish()
        return gathering.outcome(self._clock() - begin)

    def _answers(self, question: Question, gathering: Gathering, over: float) -> Generator[Answer]:
        """Those of the journal, then those of the transport, until all are there or the time is over."""

        def again(clients: Sequence[ClientId]) -> Mapping[ClientId, bytes]:
            self._asking.forget(clients)
            return self._asking.messages(question, clients, gathering.sent)

        messages = self._asking.messages(question, gathering.order, gathering.sent)  # the journal's too: it is theirs
        for found in self._journal.begin(question.to):
            if found.client in messages:
                self._transport.keep(found.client, found.kept)
                yield found
        yield from self._asking.answers(question, messages, gathering.missing, again, over=over)

    def _take(self, found: Answer, to: str, gathering: Gathering) -> None:
        """What becomes of an answer. One that comes again, or from somebody who was not asked, changes nothing."""
        client = found.client
        if not gathering.awaits(client):
            self._tell("ignored", client=client, reason="it has answered already, or was not asked")
            return
        if found.fault:
            gathering.fail(client, found.fault, lasting=lasts(found.error))
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
            self._asking.lost(client)
            gathering.fail(client, "it has lost what it was sent before")
            self._tell("failed", client=client, reason="it has lost what it was sent before")
        else:
            gathering.accept(found, message.tensors)
            self._tell("received", client=client, bytes=len(found.payload))

    def _check(self, round: Round, gathering: Gathering) -> None:
        """`StoppedRun` below the quorum."""
        cohort, answered = len(gathering.order), len(gathering.answered())
        if answered < self._rules.needed(cohort):
            needed = self._rules.needed(cohort)
            self._tell("paused", round=spell(round), answered=answered, needed=needed)
            raise StoppedRun(
                f"{round}: {answered} of {cohort} clients answered, {needed} are needed ({gathering.faults()}); "
                "the state before the round is saved, and what has come",
                code=SETTLED if gathering.lasting() else None,
            )

    def _select(self, round: Round, gathering: Gathering) -> None:
        """Tells what becomes of updates that are strange; `StoppedRun` where there are too many, by the rules."""
        verdict = gathering.select()
        for client, refusal in verdict.refused.items():
            self._tell("refused", client=client, reason=str(refusal))
        if verdict.clips or verdict.pause or (verdict.doubt and not self._doubted):
            self._doubted = True
            self._tell("doubted", round=spell(round), clients=[*verdict.clips], reason=verdict.doubt)
        if verdict.pause:
            raise StoppedRun(f"{round}: {verdict.doubt}; the state before the round is saved, and what has come")
