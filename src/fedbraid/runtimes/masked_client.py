"""A party's side of a masked round: from the server's word in each step to its own (see `secure.client`).

    keys           agrees to the terms, or says why not; fresh keys
    shares         sealed shares of its secrets for the others
    input          computes, lifts, and sends the words of its statistic under masks
    confirmation   signs who has survived; only where clients have identities
    reveal         a share of every client's secret

A party without samples sends zeros under masks, so that not even that is seen. It agrees to a threshold no lower than
its own settings' alone, and to no statistic that names clients.

A sum is named by one digest of all that an update depends on: configuration, round, every shared tensor. It goes into
every key, seal and signature, and this party compares it with what it computes from itself, so that all parties of a
sum compute from the same, and no step is another round's. Which sums it opens after others says `opened_sums`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from fedbraid.algebra import Tensors
from fedbraid.core import EVALUATE, Client, ClientId
from fedbraid.errors import RunError, UserError
from fedbraid.runtimes.client import Masking, Work, owed
from fedbraid.runtimes.exchange import STEP, Answer, read_round, spell
from fedbraid.runtimes.masked_state import MaskedState, MaskedStore
from fedbraid.runtimes.masked_terms import name_of, statistic_of
from fedbraid.runtimes.opened_sums import OpenedSum, Summand, check_input, check_survivors, known_as
from fedbraid.secure import Layout, Session
from fedbraid.secure import client as steps
from fedbraid.secure.client import Advertised, Confirmed, Masked, Shared
from fedbraid.secure.stages import Stage, read_session
from fedbraid.wire import fraction

_Found = TypeVar("_Found")

INPUT = "input"
"""The step in which a party computes, and the name of the one tensor in its answer: the masked words."""
DELIVERING = ("keys", INPUT)
"""The steps with which the tensors of the round come: new ones with the first, and again where they are needed."""


@dataclass(frozen=True)
class Asked:
    """A question of a masked round to one party, what it has received and kept, what it holds of masked sums."""

    work: Work
    client: ClientId
    party: Client
    text: Mapping[str, str]
    received: Tensors
    memory: Tensors
    identity: bytes | None = None
    state: MaskedState = field(default_factory=MaskedState)
    before: Sequence[OpenedSum] = ()


@dataclass(frozen=True)
class Said:
    """What a party says in a step, what it holds after it, and the sum that it opens with it."""

    state: MaskedState
    parts: Mapping[ClientId, bytes] = field(default_factory=dict[ClientId, bytes])
    tensors: Tensors = field(default_factory=dict[str, torch.Tensor])
    kept: Tensors = field(default_factory=dict[str, torch.Tensor])
    opens: OpenedSum | None = None


def is_step(text: Mapping[str, str]) -> bool:
    """Whether a question is one of a masked round."""
    return "step" in text


def delivers(text: Mapping[str, str]) -> bool:
    """Whether the tensors of the round come with this question."""
    return text.get("step", INPUT) in DELIVERING


def masked_answer(asked: Asked, store: MaskedStore) -> Answer:
    """What this party says in a step; a fault where it refuses, or cannot go on.

    What it holds after the step is written before its message leaves: a step that was taken is never taken again. A sum
    that it opens is remembered before that, so that a crash between the two leaves it remembered.
    """
    client, name = asked.client, asked.text["step"]
    try:
        step = _STEPS.get(name)
        if step is None:
            raise RunError(f"a masked round has no step {name!r}; run one version of the library everywhere")
        said = step(replace(asked, state=store.read(), before=store.opened_sums()))
        if said.opens:
            store.remember(said.opens)
        store.write(said.state)
    except RunError as error:
        return Answer(client, fault=str(error), error=_coded(error))
    about = {"client": client, "to": asked.text["to"], "is": STEP, "parts": write_parts(said.parts)}
    return Answer(client, asked.work.codec.encode(said.tensors, about), kept=said.kept)


def _coded(error: RunError) -> RunError:
    """The error of a step: where it has no code of its own, that of a masked sum."""
    return error if error.code != RunError.code else RunError(str(error), code="masked")


def write_parts(parts: Mapping[ClientId, bytes]) -> str:
    """Bytes by client as text that travels beside tensors."""
    return json.dumps({client: base64.b64encode(part).decode() for client, part in parts.items()})


def read_parts(text: Mapping[str, str]) -> dict[ClientId, bytes]:
    """`RunError` where there are none, or they are damaged."""
    try:
        found = json.loads(text["parts"])
        return {str(client): base64.b64decode(part, validate=True) for client, part in found.items()}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"a message of a masked round is damaged ({type(error).__name__})") from error


def _keys(asked: Asked) -> Said:
    session = read_session(asked.text["terms"])
    _agree(asked, session)
    stage, message = _secure(lambda: steps.advertise(session, asked.client, identity=asked.identity))
    return Said(MaskedState(stage, _round_of(asked)), {asked.client: message})


def _shares(asked: Asked) -> Said:
    own = _stage(asked, Advertised)
    stage, boxes = _secure(lambda: steps.share(own, read_parts(asked.text)))
    return Said(replace(asked.state, stage=stage), boxes)


def _input(asked: Asked) -> Said:
    own, boxes = _stage(asked, Shared), read_parts(asked.text)
    session = own.own.session
    _check_question(asked, session)
    statistic, kept = _update(asked, session.layout)
    state = replace(asked.state, statistic=_secure(lambda: statistic_of(session, statistic)))
    check_input(asked.client, _summand(asked, state, session), boxes, asked.before)
    stage, message = _secure(lambda: steps.mask(own, statistic, boxes))
    words = torch.frombuffer(bytearray(message), dtype=torch.uint8)
    return Said(replace(state, stage=stage), tensors={INPUT: words}, kept=kept)


def _confirmation(asked: Asked) -> Said:
    stage, message = _confirmed(asked)
    return Said(replace(asked.state, stage=stage), {asked.client: message})


def _reveal(asked: Asked) -> Said:
    stage, _ = _confirmed(asked)
    shares = _secure(lambda: steps.reveal(stage, read_parts(asked.text)))
    opens = OpenedSum(_summand(asked, asked.state, stage.own.session), tuple(sorted(stage.survivors)))
    return Said(MaskedState(), shares, opens=opens)


_STEPS: Mapping[str, Callable[[Asked], Said]] = {
    "keys": _keys,
    "shares": _shares,
    INPUT: _input,
    "confirmation": _confirmation,
    "reveal": _reveal,
}


def _agree(asked: Asked, session: Session) -> None:
    """`RunError` for terms that this party's own settings do not allow."""
    settings = _check_question(asked, session)
    if asked.client not in session.points:
        raise RunError(f"the server asks client {asked.client!r} for a sum that it is no part of")
    own = {client: settings.identities[client] for client in session.clients if client in settings.identities}
    if dict(session.identities) != own:
        raise RunError(f"client {asked.client!r} refuses the sum: the server names other identities than its settings")
    strangers = sorted({*session.clients} - {*settings.identities}) if settings.identities else []
    if strangers:
        raise RunError(f"client {asked.client!r} refuses the sum: its settings name no identity of {strangers[0]!r}")
    least = _secure(lambda: replace(session, threshold=settings.threshold)).needed
    if session.needed < least:
        raise RunError(
            f"client {asked.client!r} refuses the sum: the server's threshold is {session.needed} of "
            f"{len(session.clients)}, its own settings ask for {least} or more"
        )
    if 8 * session.layout.size > asked.work.codec.limit:
        raise RunError(f"client {asked.client!r} refuses the sum: {session.layout.size} words are no message")
    round = read_round(asked.text["round"])
    gives = asked.work.method.phase(round).gives(round, lifted=True)
    for entry in session.layout.entries:
        bits = fraction(entry.key, gives)
        if bits is None:
            raise RunError(
                f"client {asked.client!r} refuses the sum: {entry.key!r} is one client's own, which no sum hides, or "
                "nothing that its own method sends"
            )
        if bits != entry.fraction:
            raise RunError(
                f"client {asked.client!r} refuses the sum: {entry.key!r} would have {entry.fraction} bits after the "
                f"point, its own method says {bits}"
            )


def _check_question(asked: Asked, session: Session) -> Masking:
    """The settings; `RunError` where the sum is of anything else than what this party computes from."""
    settings = asked.work.masking
    if settings is None:
        raise RunError("this client has no masked mode in its settings (secure.masked); nothing was sent")
    if session.run != name_of(settings.terms, read_round(asked.text["round"]), asked.received):
        raise RunError(
            f"client {asked.client!r} refuses the sum: its terms are those of another round, of other shared tensors "
            "or of another configuration than this client computes from"
        )
    return settings


def _round_of(asked: Asked) -> str:
    return spell(read_round(asked.text["round"]))


def _summand(asked: Asked, state: MaskedState, session: Session) -> Summand:
    round = read_round(state.round)
    trains = any(quantity.role == "value" for quantity in asked.work.method.phase(round).gives(round).values())
    names = (asked.work.masking or Masking()).samples_of
    measured = frozenset[str]() if trains or round.phase == EVALUATE else frozenset(names(round.task))
    return Summand(session.run, known_as(round), state.statistic, measured)


def _stage(asked: Asked, kind: Any) -> Any:
    """What this party holds of the sum under way; `RunError` where that is not what the step needs."""
    stage = asked.state.stage
    if stage is None or not isinstance(stage, kind) or _session_of(stage).digest.hex() != asked.text["session"]:
        raise RunError(
            f"client {asked.client!r} holds nothing with which it could take the step {asked.text['step']!r} of this "
            "sum: it was restarted without its files, or the step comes out of turn"
        )
    if _round_of(asked) != asked.state.round:
        raise RunError(
            f"client {asked.client!r} refuses the step {asked.text['step']!r}: it names another round "
            f"({read_round(asked.text['round'])}) than the sum ({read_round(asked.state.round)})"
        )
    return stage


def _session_of(stage: Stage) -> Session:
    return stage.session if isinstance(stage, Advertised | Masked) else _session_of(stage.own)


def _update(asked: Asked, layout: Layout) -> tuple[Tensors, Tensors]:
    """(the statistic, what is kept): zeros where there are no samples for the round."""
    work, round = replace(asked.work, lift_on="client"), read_round(asked.text["round"])
    found = owed(work, asked.client, asked.party, asked.received, asked.memory, round)
    if found is not None:
        return found
    kinds = {"float64": torch.float64, "int64": torch.int64}
    return {entry.key: torch.zeros(entry.shape, dtype=kinds[entry.dtype]) for entry in layout.entries}, {}


def _confirmed(asked: Asked) -> tuple[Confirmed, bytes]:
    """The stage that is bound to the server's lists, and the signature under them."""
    stage = _stage(asked, Masked | Confirmed)
    try:
        survivors, dropouts = (tuple(map(str, part)) for part in json.loads(asked.text["lists"]))
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise RunError(f"a message of a masked round is damaged ({type(error).__name__})") from error
    check_survivors(asked.client, _summand(asked, asked.state, _session_of(stage)), survivors, asked.before)
    return _secure(lambda: steps.confirm(stage, survivors, dropouts, identity=asked.identity))


def _secure(step: Callable[[], _Found]) -> _Found:
    """A step whose complaints about what the server or this party gave are faults of this party alone."""
    try:
        return step()
    except UserError as error:
        raise RunError(str(error)) from error
