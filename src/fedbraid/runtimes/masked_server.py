"""The server's side of a masked round: five questions to the same parties, and the sum of those who stayed.

    keys, shares, input, confirmation, reveal      (see `secure.server`; without identities nobody confirms)

The tensors of the round travel with the first question. A client that is lost, late or refused costs itself the round;
the masks that it has dealt are taken off by the others' shares. Below the threshold the run pauses. The secrets of a
sum die with its server, so a round that did not end is begun anew, under another name, by whoever resumes the run.

No update is seen, so none is checked: the sum alone is, and nobody can say whose fault it is.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace

from fedbraid.algebra import ZERO
from fedbraid.core import ClientId, Outcome, Refusal
from fedbraid.errors import RunError, StoppedRun
from fedbraid.naming import printable
from fedbraid.quantities import Gives
from fedbraid.runtimes.asking import Asking, Question
from fedbraid.runtimes.codec import Message
from fedbraid.runtimes.exchange import LOST, STEP, Answer, spell
from fedbraid.runtimes.gate import SHOWN, admitted
from fedbraid.runtimes.limits import Limits
from fedbraid.runtimes.masked_client import DELIVERING, INPUT, read_parts, write_parts
from fedbraid.runtimes.masked_terms import check_total
from fedbraid.runtimes.rules import faults
from fedbraid.secure import Session
from fedbraid.secure import server as steps
from fedbraid.secure.stages import write_session

ENDS = {"keys": 0.2, "shares": 0.3, INPUT: 0.8, "confirmation": 0.9, "reveal": 1.0}
"""By when of a round's time each step is over: most of it is for what a client computes."""
HELD = 1024
"""The most bytes that a message says of one client."""
SPARE = 65536
"""Bytes of a message beside that."""

Texts = Mapping[str, str]


class MaskedRound:
    """One masked round as it comes together: who was lost and why, and what was sent."""

    def __init__(self, asking: Asking, question: Question, session: Session, gives: Gives) -> None:
        self._asking = asking
        self._question = question
        self._session = session
        self._gives = gives
        self._begin = asking.clock()
        self._down = dict.fromkeys(session.clients, 0)
        self._up = dict.fromkeys(session.clients, 0)
        self._failed: dict[ClientId, str] = {}
        self._refused: dict[ClientId, Refusal] = {}

    def sum(self, limits: Limits | None) -> Outcome:
        """What became of it; `StoppedRun` where too few clients stay, or where the sum is none that they can have."""
        tell, session, round = self._asking.tell, self._session, self._question.round
        deadline, needed = self._asking.rules.deadline, session.needed
        tell("round", round=spell(round), cohort=list(session.clients), deadline=deadline, needed=needed, masked=True)
        try:
            found = self._unmasked()
            if limits:
                check_total(found.total, self._gives, self._question.received, limits, len(found.survivors))
        except RunError as error:
            lost = self._failed.keys() | self._refused.keys()
            tell("paused", round=spell(round), answered=len(session.clients) - len(lost), needed=needed)
            why = f" ({faults(self._failed, self._refused)})" if lost else ""
            raise StoppedRun(f"{error}{why}; the state before the round is saved, resume the run from it") from error
        return self._outcome(found)

    def _unmasked(self) -> steps.Unmasked:
        """All steps, one after another."""
        session = self._session
        terms = {"terms": write_session(session)}
        keys = steps.collect_keys(session, dict(self._own("keys", session.clients, terms)))
        self._refuse("keys", keys.refused)
        advertised = {"parts": write_parts(keys.advertised)}
        dealt = steps.collect_shares(keys, dict(self._parts("shares", [*keys.advertised], advertised)))
        self._refuse("shares", dealt.refused)
        inputs = steps.collect_inputs(dealt, self._inputs(dealt))
        self._refuse(INPUT, inputs.refused)
        lists = {"lists": json.dumps([inputs.survivors, inputs.dropouts])}
        signed = self._confirmed(inputs, lists) if session.identities else {}
        reveals = dict(self._parts("reveal", inputs.survivors, {**lists, "parts": write_parts(signed)}))
        found = steps.unmask(inputs, reveals)
        self._refuse("reveal", found.refused)
        return found

    def _confirmed(self, inputs: steps.Inputs, lists: Texts) -> Mapping[ClientId, bytes]:
        found = steps.collect_confirmations(inputs, dict(self._own("confirmation", inputs.survivors, lists)))
        self._refuse("confirmation", found.refused)
        return found.messages

    def _inputs(self, dealt: steps.Dealt) -> Iterator[tuple[ClientId, bytes]]:
        """The masked words as they come; those of one client at a time are in memory."""
        boxes = {holder: {"parts": write_parts(parts)} for holder, parts in dealt.boxes.items()}
        for client, message in self._said(INPUT, [*boxes], own=boxes):
            self._asking.tell("received", client=client, bytes=self._up[client])
            words = message.tensors.get(INPUT)
            yield client, b"" if words is None else words.numpy().tobytes()

    def _own(self, step: str, clients: Sequence[ClientId], text: Texts) -> Iterator[tuple[ClientId, bytes]]:
        """What each says of itself in a step."""
        for client, parts in self._parts(step, clients, text):
            yield client, parts.get(client, b"")

    def _parts(
        self, step: str, clients: Sequence[ClientId], text: Texts
    ) -> Iterator[tuple[ClientId, Mapping[ClientId, bytes]]]:
        """What each says in a step, by the client whom it is about."""
        for client, message in self._said(step, clients, text):
            try:
                yield client, read_parts(message.text)
            except RunError as error:
                self._refuse(step, {client: str(error)})

    def _said(
        self,
        step: str,
        clients: Sequence[ClientId],
        text: Texts | None = None,
        own: Mapping[ClientId, Texts] | None = None,
    ) -> Generator[tuple[ClientId, Message]]:
        """The messages of a step as they come; those that do not, or are none, are noted."""
        asking, waiting, terms = self._asking, {*clients}, self._session.digest.hex()
        about = {"step": step, "session": terms, **(text or {})}
        question = replace(self._question, to=f"{self._question.to} {terms[:32]} {step}", text=about)

        def again(missing: Sequence[ClientId]) -> Mapping[ClientId, bytes]:
            if step in DELIVERING:
                asking.forget(missing)
            return asking.messages(question, missing, self._sent, own)

        messages = asking.messages(question, sorted(clients), self._sent, own)
        over = asking.rules.over(self._begin, ENDS[step])
        for found in asking.answers(question, messages, lambda: sorted(waiting), again, over=over):
            if found.client not in waiting:
                asking.tell("ignored", client=found.client, reason="it has answered already, or was not asked")
                continue
            message = self._read(step, found, question.to)
            if message is not None:
                waiting.discard(found.client)
                yield found.client, message
            elif found.client in self._refused:
                waiting.discard(found.client)
        for client in sorted(waiting):
            self._failed.setdefault(client, f"no answer to the step {step!r} in its time")
        if step in DELIVERING:
            asking.forget(sorted(waiting))

    def _read(self, step: str, found: Answer, to: str) -> Message | None:
        """The message of an answer; None where it is none, which is noted."""
        client, size = found.client, len(found.payload)
        self._up[client] += size
        if found.fault:
            self._fail(client, found.fault)
            return None
        words = 8 * self._session.layout.size if step == INPUT else HELD * len(self._session.clients)
        if size > words + SPARE:
            self._note(Refusal(client, "", "the size of a message", f"{size} bytes", f"{words + SPARE} bytes"))
            return None
        message = admitted(found, to, self._asking.codec, None, (STEP, LOST))
        if isinstance(message, Refusal):
            self._note(message)
            return None
        if message.text["is"] == LOST:
            self._asking.lost(client)
            self._fail(client, "it has lost what it was sent before")
            return None
        self._failed.pop(client, None)
        return message

    def _sent(self, client: ClientId, size: int) -> None:
        self._down[client] += size

    def _fail(self, client: ClientId, reason: str) -> None:
        """It may answer yet."""
        self._failed[client] = reason
        self._asking.tell("failed", client=client, reason=reason)

    def _refuse(self, step: str, reasons: Mapping[ClientId, str]) -> None:
        for client, reason in reasons.items():
            self._note(Refusal(client, "", f"the step {step!r} of a masked sum", printable(reason, SHOWN), ""))

    def _note(self, refusal: Refusal) -> None:
        self._failed.pop(refusal.client, None)
        self._refused[refusal.client] = refusal
        self._asking.tell("refused", client=refusal.client, reason=str(refusal))

    def _outcome(self, found: steps.Unmasked) -> Outcome:
        """Where nobody had samples, the sum is zero in every number, and nobody has reported."""
        empty = not any(bool(tensor.any()) for tensor in found.total.values())
        present = {*found.survivors}
        return Outcome(
            ZERO if empty else found.total,
            reported=() if empty else found.survivors,
            idle=found.survivors if empty else (),
            bytes_up={client: size for client, size in self._up.items() if size},
            bytes_down=self._down,
            seconds=self._asking.clock() - self._begin,
            values_up=dict.fromkeys(found.survivors, self._session.layout.size),
            refused={client: self._refused[client] for client in sorted(self._refused) if client not in present},
            failed={client: self._failed[client] for client in sorted(self._failed) if client not in present},
        )
