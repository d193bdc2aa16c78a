"""A party's side of a masked round: from the server's word in each step to its own (see `secure.client`).

    keys           agrees to the terms, or says why not; fresh keys
    shares         sealed shares of its secrets for the others
    input          computes, lifts, and sends the words of its statistic under masks
    confirmation   signs who has survived; only where clients have identities
    reveal         a share of every client's secret

A party without samples sends zeros under masks, so that not even that is seen. It agrees to a threshold no lower than
its own settings' alone, and to no statistic that names clients. And it opens one sum a round: where a round is begun
anew after the sum may have been opened, the survivors must be the same, since two sums that differ by a client disclose
that client's update.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from fedbraid.algebra import Tensors
from fedbraid.core import Client, ClientId
from fedbraid.errors import RunError, UserError
from fedbraid.runtimes.client import Work, owed
from fedbraid.runtimes.desk import Desk, Held
from fedbraid.runtimes.exchange import STEP, Answer, read_round
from fedbraid.runtimes.masked_terms import name_of
from fedbraid.secure import Layout, Session
from fedbraid.secure import client as steps
from fedbraid.secure.ciphers import digest
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
    """A question of a masked round to one party, what it has received and kept, and what it holds of the sum."""

    work: Work
    client: ClientId
    party: Client
    text: Mapping[str, str]
    received: Tensors
    memory: Tensors
    identity: bytes | None = None
    held: Held = field(default_factory=Held)


@dataclass(frozen=True)
class Said:
    """What a party says in a step, and what it holds after it."""

    held: Held
    parts: Mapping[ClientId, bytes] = field(default_factory=dict[ClientId, bytes])
    tensors: Tensors = field(default_factory=dict[str, torch.Tensor])
    kept: Tensors = field(default_factory=dict[str, torch.Tensor])


def is_step(text: Mapping[str, str]) -> bool:
    """Whether a question is one of a masked round."""
    return "step" in text


def delivers(text: Mapping[str, str]) -> bool:
    """Whether the tensors of the round come with this question."""
    return text.get("step", INPUT) in DELIVERING


def masked_answer(asked: Asked, desk: Desk) -> Answer:
    """What this party says in a step; a fault where it refuses, or cannot go on.

    What it holds after the step is written before its message leaves: a step that was taken is never taken again.
    """
    client, name = asked.client, asked.text["step"]
    try:
        step = _STEPS.get(name)
        if step is None:
            raise RunError(f"a masked round has no step {name!r}; run one version of the library everywhere")
        said = step(replace(asked, held=desk.read()))
        desk.write(said.held)
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
    return Said(asked.held.at(stage), {asked.client: message})


def _shares(asked: Asked) -> Said:
    own = _stage(asked, Advertised)
    stage, boxes = _secure(lambda: steps.share(own, read_parts(asked.text)))
    return Said(asked.held.at(stage), boxes)


def _input(asked: Asked) -> Said:
    own = _stage(asked, Shared)
    statistic, kept = _update(asked, own.own.session.layout)
    stage, message = _secure(lambda: steps.mask(own, statistic, read_parts(asked.text)))
    words = torch.frombuffer(bytearray(message), dtype=torch.uint8)
    return Said(asked.held.at(stage), tensors={INPUT: words}, kept=kept)


def _confirmation(asked: Asked) -> Said:
    stage, message = _confirmed(asked)
    return Said(asked.held.at(stage), {asked.client: message})


def _reveal(asked: Asked) -> Said:
    stage, _ = _confirmed(asked)
    shares = _secure(lambda: steps.reveal(stage, read_parts(asked.text)))
    return Said(asked.held.after(stage.own.session.run, _company(stage.survivors)), shares)


_STEPS: Mapping[str, Callable[[Asked], Said]] = {
    "keys": _keys,
    "shares": _shares,
    INPUT: _input,
    "confirmation": _confirmation,
    "reveal": _reveal,
}


def _agree(asked: Asked, session: Session) -> None:
    """`RunError` for terms that this party's own settings do not allow."""
    settings = asked.work.masking
    if session.run != name_of(asked.text["round"], asked.text["all"]):
        raise RunError(f"client {asked.client!r} refuses the sum: its terms are those of another round")
    if settings is None:
        raise RunError("this client has no masked mode in its settings (secure.masked); nothing was sent")
    if asked.client not in session.points:
        raise RunError(f"the server asks client {asked.client!r} for a sum that it is no part of")
    own = {client: settings.identities[client] for client in session.clients if client in settings.identities}
    if dict(session.identities) != own:
        raise RunError(f"client {asked.client!r} refuses the sum: the server names other identities than its settings")
    least = _secure(lambda: replace(session, threshold=settings.threshold)).needed
    if session.needed < least:
        raise RunError(
            f"client {asked.client!r} refuses the sum: the server's threshold is {session.needed} of "
            f"{len(session.clients)}, its own settings ask for {least} or more"
        )
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


def _stage(asked: Asked, kind: Any) -> Any:
    """What this party holds of the sum under way; `RunError` where that is not what the step needs."""
    stage = asked.held.stage
    if stage is None or not isinstance(stage, kind) or _session_of(stage).digest.hex() != asked.text["session"]:
        raise RunError(
            f"client {asked.client!r} holds nothing with which it could take the step {asked.text['step']!r} of this "
            "sum: it was restarted without its files, or the step comes out of turn"
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
    """The stage that is bound to the server's lists, which are those of an earlier sum of this round, if any."""
    stage = _stage(asked, Masked | Confirmed)
    try:
        survivors, dropouts = (tuple(map(str, part)) for part in json.loads(asked.text["lists"]))
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"a message of a masked round is damaged ({type(error).__name__})") from error
    before = asked.held.company.get(_session_of(stage).run)
    if before is not None and before != _company(survivors):
        raise RunError(
            f"client {asked.client!r} has opened a sum of this round before, with other clients; two sums that differ "
            "by a client disclose its update; resume the run when the same clients are back, or begin it anew under "
            "another name"
        )
    return _secure(lambda: steps.confirm(stage, survivors, dropouts, identity=asked.identity))


def _company(survivors: Iterable[ClientId]) -> str:
    return digest(*sorted(survivors)).hex()[:16]


def _secure(step: Callable[[], _Found]) -> _Found:
    """A step whose complaints about what the server or this party gave are faults of this party alone."""
    try:
        return step()
    except UserError as error:
        raise RunError(str(error)) from error
