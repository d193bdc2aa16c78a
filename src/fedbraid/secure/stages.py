"""Sessions and stages as text: what travels to the clients, and what a client holds between two steps on its own disk.

JSON, bytes in hexadecimal. A stage is secret; where it lies is the caller's affair (see `runtimes.masked_state`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from fedbraid.errors import RunError, UserError
from fedbraid.secure.client import Advertised, Confirmed, Masked, Shared
from fedbraid.secure.fixed_point import Entry, Layout
from fedbraid.secure.messages import PublicKeys, Shares
from fedbraid.secure.session import ClientId, Session

Stage: TypeAlias = Advertised | Shared | Masked | Confirmed


def write_session(session: Session) -> str:
    return json.dumps(_session(session))


def read_session(text: str) -> Session:
    """`RunError` for a text that is no session, or one that no masked sum can have."""
    try:
        return _as_session(json.loads(text))
    except UserError as error:
        raise RunError(f"refused the terms of a masked sum: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise RunError(f"refused the terms of a masked sum: they are damaged ({type(error).__name__})") from error


def write_stage(stage: Stage) -> str:
    if isinstance(stage, Advertised):
        return json.dumps({"is": "advertised", **_advertised(stage)})
    if isinstance(stage, Shared):
        peers = {client: [keys.sealing.hex(), keys.masking.hex()] for client, keys in stage.peers.items()}
        own = _advertised(stage.own)
        return json.dumps({"is": "shared", "own": own, "peers": peers, "view": stage.view.hex()})
    if isinstance(stage, Masked):
        return json.dumps({"is": "masked", **_masked(stage)})
    lists = {"survivors": sorted(stage.survivors), "dropouts": sorted(stage.dropouts)}
    return json.dumps({"is": "confirmed", "own": _masked(stage.own), **lists})


def read_stage(text: str) -> Stage:
    """The stage that `write_stage` wrote; `RunError` for a text that is none."""
    try:
        facts = json.loads(text)
        kind = facts["is"]
        if kind == "advertised":
            return _as_advertised(facts)
        if kind == "shared":
            peers = {client: PublicKeys(*map(bytes.fromhex, keys)) for client, keys in facts["peers"].items()}
            return Shared(_as_advertised(facts["own"]), peers, bytes.fromhex(facts["view"]))
        if kind == "masked":
            return _as_masked(facts)
        own = _as_masked(facts["own"])
        return Confirmed(own, frozenset(facts["survivors"]), frozenset(facts["dropouts"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"what a client holds of a masked sum is damaged ({type(error).__name__}); it takes part in the next one"
        ) from error


def _session(session: Session) -> dict[str, Any]:
    return {
        "run": session.run,
        "round": session.round,
        "clients": session.clients,
        "layout": [[entry.key, entry.shape, entry.dtype, entry.fraction] for entry in session.layout.entries],
        "threshold": session.needed,
        "identities": {client: key.hex() for client, key in session.identities.items()},
    }


def _as_session(facts: Mapping[str, Any]) -> Session:
    entries = (Entry(str(key), tuple(map(int, shape)), dtype, int(bits)) for key, shape, dtype, bits in facts["layout"])
    identities = {str(client): bytes.fromhex(key) for client, key in facts["identities"].items()}
    clients: tuple[ClientId, ...] = tuple(map(str, facts["clients"]))
    layout, threshold = Layout(tuple(entries)), int(facts["threshold"])
    return Session(str(facts["run"]), str(facts["round"]), clients, layout, threshold, identities)


def _advertised(stage: Advertised) -> dict[str, Any]:
    secrets = {"sealing": stage.sealing.hex(), "masking": stage.masking.hex(), "seed": stage.seed.hex()}
    return {"session": _session(stage.session), "client": stage.client, **secrets, "message": stage.message.hex()}


def _as_advertised(facts: Mapping[str, Any]) -> Advertised:
    parts = [bytes.fromhex(facts[name]) for name in ("sealing", "masking", "seed", "message")]
    return Advertised(_as_session(facts["session"]), facts["client"], *parts)


def _masked(stage: Masked) -> dict[str, Any]:
    held = {dealer: [shares.seed.hex(), shares.key.hex()] for dealer, shares in stage.held.items()}
    return {"session": _session(stage.session), "client": stage.client, "held": held}


def _as_masked(facts: Mapping[str, Any]) -> Masked:
    held = {dealer: Shares(*map(bytes.fromhex, shares)) for dealer, shares in facts["held"].items()}
    return Masked(_as_session(facts["session"]), facts["client"], held)
