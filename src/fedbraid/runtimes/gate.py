"""The gate: an update is checked whole before anything changes, and one that breaks a rule costs its sender the round.

    size       of the message, before it is read
    form       names, types and shapes, as a rehearsal of the client's own step gives them (see `rehearsal`)
    numbers    finite, possible, in agreement with each other (see `limits`, `gram_rules` and `exam_rules`)

Answers to evaluations are not rehearsed, since writing texts takes long and what is counted may depend on the samples:
their numbers are checked, and their shapes against those of who answered before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain

from fedbraid.algebra import Tensors
from fedbraid.core import EVALUATE, ClientId, Refusal, Round
from fedbraid.errors import RunError, UserError
from fedbraid.runtimes import exam_rules, gram_rules, limits
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.codec import Codec, Message
from fedbraid.runtimes.exchange import IDLE, LOST, UPDATE, Answer
from fedbraid.runtimes.limits import Breach, Limits
from fedbraid.runtimes.rehearsal import Form, rehearse

HEADER = 128
"""The most bytes of a message about a tensor, beside its name."""


class Gate:
    """What is let into the sum of a round. `begin` comes first; then updates are asked about in any order."""

    def __init__(self, work: Work, limits: Limits | None = None) -> None:
        self._work = work
        self.limits = limits or Limits()
        self._received: Tensors = {}
        self._round: Round | None = None
        self._forms: dict[ClientId, Form] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def begin(self, received: Tensors, round: Round, cohort: Sequence[ClientId]) -> None:
        """A new round, in which these are asked. Rehearses the first of them; `RunError` where that cannot be done."""
        self._received, self._round = received, round
        self._forms, self._shapes = {}, {}
        if round.phase != EVALUATE:
            self._rehearse(min(cohort))

    def oversized(self, client: ClientId, size: int) -> Refusal | None:
        """Why a message of so many bytes is not read."""
        if not self._forms:
            return None
        if size > self._room():
            self._own(client)
        most = self._room()
        return None if size <= most else Refusal(client, "", "the size of a message", f"{size} bytes", f"{most} bytes")

    def refusal(self, client: ClientId, tensors: Tensors) -> Refusal | None:
        """Why this update is not taken; None for one that is."""
        breach = next(chain(self._form(client, tensors), self._numbers(tensors)), None)
        if breach is not None:
            return Refusal(client, printable(breach.tensor), breach.rule, breach.value, breach.limit)
        self._shapes |= {name: tuple(tensor.shape) for name, tensor in tensors.items()} if not self._forms else {}
        return None

    def _own(self, client: ClientId) -> Form:
        """The client's own form; that of the first where its step cannot be performed, which must not end the round."""
        if client not in self._forms:
            with suppress(RunError, UserError):
                self._rehearse(client)
        return self._forms.get(client) or next(iter(self._forms.values())).of(client)

    def _rehearse(self, client: ClientId) -> None:
        assert self._round
        self._forms[client] = rehearse(self._work, client, self._received, self._round)

    def _room(self) -> int:
        sizes = (
            form.bytes + sum(HEADER + len(name.encode()) for name in form.tensors) for form in self._forms.values()
        )
        return max(sizes) + self.limits.spare

    def _form(self, client: ClientId, tensors: Tensors) -> Iterator[Breach]:
        """Nothing where the update has the form of one of those rehearsed, or, after that, of its sender's own.

        Clients of a smaller adapter have another form than the others. One that sends the form of another's passes:
        that is an update which the method knows how to add.
        """
        if not self._forms:
            yield from self._as_before(tensors)
            return
        if any(_fits(form.of(client), tensors) for form in self._forms.values()):
            return
        yield from differences(self._own(client), tensors)

    def _as_before(self, tensors: Tensors) -> Iterator[Breach]:
        for name, tensor in tensors.items():
            known = self._shapes.get(name, tuple(tensor.shape))
            if known != tuple(tensor.shape):
                yield Breach(name, "the shape that others have sent", str(tuple(tensor.shape)), str(known))

    def _numbers(self, tensors: Tensors) -> Iterator[Breach]:
        entries = limits.named(tensors)
        yield from limits.types(entries)
        samples = limits.samples_of(tensors, self.limits)
        yield from limits.sizes(entries, self._received, self.limits, samples)
        yield from limits.counts(entries, samples)
        if not self._forms:  # below, shapes are known to be possible
            yield from exam_rules.marks(tensors)
            return
        yield from gram_rules.grams(entries, self.limits)
        yield from gram_rules.sums(entries)
        yield from gram_rules.products(entries, self._received, self.limits)


def admitted(
    found: Answer, to: str, codec: Codec, gate: Gate | None, kinds: Sequence[str] = (UPDATE, IDLE, LOST)
) -> Message | Refusal:
    """The message of an answer to the question `to`, or why it is not taken, whatever its bytes are."""
    client = found.client
    refusal = gate.oversized(client, len(found.payload)) if gate else None
    if refusal:
        return refusal
    try:
        message = codec.decode(found.payload)
    except RunError as error:
        return Refusal(client, "", "a whole message", printable(str(error)), "")
    named = message.text.get("client", ""), message.text.get("to", "")
    if named != (client, to):
        value = " to ".join(map(printable, named))
        return Refusal(client, "", "an answer to this question", value, f"{client} to {to}")
    said = message.text.get("is", "")
    if said not in kinds:
        return Refusal(client, "", "a kind of answer", printable(said), " or ".join(kinds))
    refusal = gate.refusal(client, message.tensors) if gate and said == UPDATE else None
    return refusal or message


def differences(form: Form, tensors: Tensors) -> Iterator[Breach]:
    """What an update has that the form has not, the other way round, and what differs."""
    for name in sorted(form.tensors.keys() - tensors.keys()):
        yield Breach(name, "every tensor of an update", "missing", "")
    for name in sorted(tensors.keys() - form.tensors.keys()):
        yield Breach(name, "no other tensor than an update's", "unknown", "")
    for name, (dtype, shape) in form.tensors.items():
        found = tensors.get(name)
        if found is not None and tuple(found.shape) != shape:
            yield Breach(name, "the shape of an update", str(tuple(found.shape)), str(shape))
        elif found is not None and found.dtype != dtype:
            yield Breach(name, "the type of an update", str(found.dtype), str(dtype))


def printable(text: str, most: int = 200) -> str:
    """What somebody sent, fit to be shown: in one line of so many letters, without signs that steer a terminal."""
    shown = text if text.isprintable() else repr(text)
    return shown if len(shown) <= most else f"{shown[:most]}..."


def _fits(form: Form, tensors: Tensors) -> bool:
    return next(differences(form, tensors), None) is None
