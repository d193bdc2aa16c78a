"""The gate: an update is checked whole before anything changes, and one that breaks a rule costs its sender the round.

    size       of the message, before it is read
    schema     names, types and shapes, as a dry run of the client's own step gives them (see `dry_run`)
    numbers    finite, possible, in agreement with each other (see `limits`, `gram_rules` and `exam_rules`)

What a tensor is says the method that the server runs itself (see `quantities`), whoever sent it. Of evaluations there
is no dry run, since writing texts takes long and what is counted may depend on the samples: names must be declared,
numbers are checked, and shapes against those of who answered before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain

from fedbraid.algebra import Tensors
from fedbraid.core import EVALUATE, ClientId, Refusal, Round
from fedbraid.errors import RunError, UserError
from fedbraid.naming import printable
from fedbraid.quantities import Gives
from fedbraid.runtimes import exam_rules, gram_rules, limits
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.codec import Codec, Message
from fedbraid.runtimes.dry_run import UpdateSchema, dry_run
from fedbraid.runtimes.exchange import IDLE, LOST, UPDATE, Answer
from fedbraid.runtimes.limits import Limits, Violation
from fedbraid.wire import entries, samples_behind, undeclared

HEADER = 128
"""The most bytes of a message about a tensor, beside its name."""
SHOWN = 200
"""The most letters of what somebody sent that are shown."""


class Gate:
    """What is let into the sum of a round. `begin` comes first; then updates are asked about in any order."""

    def __init__(self, work: Work, limits: Limits | None = None) -> None:
        self._work = work
        self.limits = limits or Limits()
        self._received: Tensors = {}
        self._round: Round | None = None
        self._dry: dict[ClientId, UpdateSchema] = {}
        self._schemas: list[UpdateSchema] = []
        self._room = 0
        self._shapes: dict[str, tuple[int, ...]] = {}

    def begin(self, received: Tensors, round: Round, cohort: Sequence[ClientId]) -> None:
        """A new round, in which these are asked, with a dry run of the first; `RunError` where that cannot be done."""
        self._received, self._round = received, round
        self._dry, self._schemas, self._room, self._shapes = {}, [], 0, {}
        if round.phase != EVALUATE:
            self._run_dry(min(cohort))

    def oversized(self, client: ClientId, size: int) -> Refusal | None:
        """Why a message of so many bytes is not read."""
        if not self._schemas:
            return None
        if size > self._room + self.limits.spare:
            self._own(client)
        most = self._room + self.limits.spare
        return None if size <= most else Refusal(client, "", "the size of a message", f"{size} bytes", f"{most} bytes")

    def refusal(self, client: ClientId, tensors: Tensors) -> Refusal | None:
        """Why this update is not taken; None for one that is."""
        found = next(chain(self._schema(client, tensors), self._numbers(tensors)), None)
        if found is not None:
            return Refusal(client, printable(found.tensor, SHOWN), found.rule, found.value, found.limit)
        self._shapes |= {name: tuple(tensor.shape) for name, tensor in tensors.items()} if not self._schemas else {}
        return None

    def _own(self, client: ClientId) -> UpdateSchema:
        """The client's own schema; that of the first where its step fails, which must not end the round."""
        if client not in self._dry:
            with suppress(RunError, UserError):
                self._run_dry(client)
        return self._dry.get(client) or self._schemas[0].of(client)

    def _run_dry(self, client: ClientId) -> None:
        """Schemas that differ only in whose they are count as one: however many clients are wrong, an update is
        compared with as many as there are kinds of adapters."""
        assert self._round
        own = dry_run(self._work, client, self._received, self._round)
        self._dry[client] = own
        self._room = max(self._room, own.bytes + sum(HEADER + len(name.encode()) for name in own.tensors))
        if all(known.of(client).tensors != own.tensors for known in self._schemas):
            self._schemas.append(own)

    def _schema(self, client: ClientId, tensors: Tensors) -> Iterator[Violation]:
        """Nothing where the update has the schema of one of the dry runs, or, after that, of its sender's own.

        Clients of a smaller adapter have another schema than the others. One that sends by another's passes: that is
        an update which the method knows how to add.
        """
        if not self._schemas:
            yield from self._as_before(tensors)
            return
        if any(_fits(own.of(client), tensors) for own in self._schemas):
            return
        yield from differences(self._own(client), tensors)

    def _as_before(self, tensors: Tensors) -> Iterator[Violation]:
        for name in undeclared(tensors, self._gives()):
            yield Violation(name, "a name that is declared", "unknown", "")
        for name, tensor in tensors.items():
            known = self._shapes.get(name, tuple(tensor.shape))
            if known != tuple(tensor.shape):
                yield Violation(name, "the shape that others have sent", str(tuple(tensor.shape)), str(known))

    def _numbers(self, tensors: Tensors) -> Iterator[Violation]:
        found = entries(tensors, self._gives())
        yield from limits.types(found)
        samples = samples_behind(found)
        most = self.limits.samples if samples is None else samples
        yield from limits.sizes(found, self._received, self.limits, most)
        yield from limits.counts(found, samples)
        if not self._schemas:  # below, shapes are known to be possible
            yield from exam_rules.marks(tensors)
            return
        yield from gram_rules.grams(found, self.limits)
        yield from gram_rules.sums(found)
        yield from gram_rules.products(found, self._received, self.limits)

    def _gives(self) -> Gives:
        assert self._round
        return self._work.gives(self._round)


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
        return Refusal(client, "", "a whole message", printable(error, SHOWN), "")
    named = message.text.get("client", ""), message.text.get("to", "")
    if named != (client, to):
        value = " to ".join(printable(one, SHOWN) for one in named)
        return Refusal(client, "", "an answer to this question", value, f"{client} to {to}")
    said = message.text.get("is", "")
    if said not in kinds:
        return Refusal(client, "", "a kind of answer", printable(said, SHOWN), " or ".join(kinds))
    refusal = gate.refusal(client, message.tensors) if gate and said == UPDATE else None
    return refusal or message


def differences(schema: UpdateSchema, tensors: Tensors) -> Iterator[Violation]:
    """What an update has that the schema has not, the other way round, and what differs."""
    for name in sorted(schema.tensors.keys() - tensors.keys()):
        yield Violation(name, "every tensor of an update", "missing", "")
    for name in sorted(tensors.keys() - schema.tensors.keys()):
        yield Violation(name, "no other tensor than an update's", "unknown", "")
    for name, (dtype, shape) in schema.tensors.items():
        found = tensors.get(name)
        if found is not None and tuple(found.shape) != shape:
            yield Violation(name, "the shape of an update", str(tuple(found.shape)), str(shape))
        elif found is not None and found.dtype != dtype:
            yield Violation(name, "the type of an update", str(found.dtype), str(dtype))


def _fits(schema: UpdateSchema, tensors: Tensors) -> bool:
    return next(differences(schema, tensors), None) is None
