"""The client's five steps of a masked sum.

    advertise   ->  keys                      two fresh key pairs; the public ones travel
    share       ->  {holder: sealed shares}   shares of the seed of its own mask and of the private key of its masks
    mask        ->  input                     words + own mask + common masks with all that have shared
    confirm     ->  confirmation              its signature under who has survived
    reveal      ->  {dealer: share}           a survivor's seed or a dropout's key, never both

Every step takes the stage that the step before returned, and what the server sent; it returns the next stage and the
message. Stages are plain data. Keep the newest one only: from it no step can be taken a second time, and none must be,
since two inputs under the same masks disclose their difference, and two answers about one client both its secrets.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from fedbraid.algebra import Tensors
from fedbraid.errors import RunError, UserError
from fedbraid.secure.ciphers import KEY, Random, private_key, public_key
from fedbraid.secure.fixed_point import encode
from fedbraid.secure.masks import add_stream, common_seed, is_added, sealing_key
from fedbraid.secure.messages import (
    PublicKeys,
    Shares,
    check_confirmation,
    digest_of,
    input_tag,
    read_keys,
    seal_shares,
    survivors_text,
    unseal_shares,
    view_of,
    write_confirmation,
    write_keys,
)
from fedbraid.secure.session import ClientId, Session
from fedbraid.secure.shamir import split


@dataclass(frozen=True)
class Advertised:
    """After the first step: the client's secrets, and the message of its keys."""

    session: Session
    client: ClientId
    sealing: bytes = field(repr=False)
    masking: bytes = field(repr=False)
    seed: bytes = field(repr=False)
    message: bytes


@dataclass(frozen=True)
class Shared:
    """After the second step: the public keys of all that advertised any."""

    own: Advertised
    peers: Mapping[ClientId, PublicKeys]
    view: bytes


@dataclass(frozen=True)
class Masked:
    """After the third step: nothing is left but the shares of all that have shared."""

    session: Session
    client: ClientId
    held: Mapping[ClientId, Shares] = field(repr=False)


@dataclass(frozen=True)
class Confirmed:
    """After the fourth step: the lists to which this client has bound itself."""

    own: Masked
    survivors: frozenset[ClientId]
    dropouts: frozenset[ClientId]


def advertise(
    session: Session, client: ClientId, *, identity: bytes | None = None, random: Random = os.urandom
) -> tuple[Advertised, bytes]:
    """Fresh keys. `identity` is the client's private one where the session has identities."""
    if client not in session.points:
        raise UserError(f"client {client!r} is none of this sum; it has {', '.join(session.clients)}")
    sealing, masking, seed = random(KEY), random(KEY), random(KEY)
    keys = PublicKeys(public_key(private_key(sealing)), public_key(private_key(masking)))
    message = write_keys(session, client, keys, identity)
    return Advertised(session, client, sealing, masking, seed, message), message


def share(own: Advertised, advertised: Mapping[ClientId, bytes]) -> tuple[Shared, dict[ClientId, bytes]]:
    """Sealed shares for everybody that advertised keys, this client included."""
    session = own.session
    peers = {client: read_keys(session, client, advertised[client]) for client in sorted(advertised)}
    session.require(peers, "advertised keys")
    if advertised.get(own.client) != own.message:
        raise RunError(f"{session.round}: client {own.client!r} refuses the list of keys: its own are not among them")
    view, sealing = view_of(advertised), private_key(own.sealing)
    points = [session.points[client] for client in peers]
    seeds = split(own.seed, points, threshold=session.needed)
    keys = split(own.masking, points, threshold=session.needed)
    boxes: dict[ClientId, bytes] = {}
    for holder, point in zip(peers, points, strict=True):
        key = sealing_key(session, sealing, peers[holder].sealing, own.client, holder)
        boxes[holder] = seal_shares(session, key, view, own.client, holder, Shares(seeds[point], keys[point]))
    return Shared(own, peers, view), boxes


def mask(stage: Shared, tensors: Tensors, boxes: Mapping[ClientId, bytes]) -> tuple[Masked, bytes]:
    """The masked input, under common masks with all whose boxes came."""
    own, session = stage.own, stage.own.session
    session.require(boxes, "dealt shares")
    strangers = sorted({*boxes} - {*stage.peers})
    if strangers or own.client not in boxes:
        raise RunError(
            f"{session.round}: client {own.client!r} refuses the shares: "
            + (f"{strangers} advertised no keys" if strangers else "its own are not among them")
        )
    sealing, masking = private_key(own.sealing), private_key(own.masking)
    held: dict[ClientId, Shares] = {}
    words = encode(session.layout, tensors, clients=len(session.clients))
    add_stream(words, own.seed)
    for peer in sorted(boxes):
        key = sealing_key(session, sealing, stage.peers[peer].sealing, peer, own.client)
        held[peer] = unseal_shares(session, key, stage.view, peer, own.client, boxes[peer])
        if peer != own.client:
            seed = common_seed(session, masking, stage.peers[peer].masking, own.client, peer)
            add_stream(words, seed, negative=not is_added(own.client, peer))
    message = input_tag(session, own.client, digest_of(boxes)) + words.astype("<u8", copy=False).tobytes()
    return Masked(session, own.client, held), message


def confirm(
    stage: Masked | Confirmed,
    survivors: Collection[ClientId],
    dropouts: Collection[ClientId],
    *,
    identity: bytes | None = None,
) -> tuple[Confirmed, bytes]:
    """Binds the client to who has survived, and signs it where the session has identities.

    Asked again for the same lists it answers again. `RunError` where the lists, or these after others, would take both
    secrets of one client, or are not those of this sum.
    """
    own = stage.own if isinstance(stage, Confirmed) else stage
    alive, lost = frozenset(survivors), frozenset(dropouts)
    _check_lists(own, alive, lost)
    if isinstance(stage, Confirmed) and (stage.survivors, stage.dropouts) != (alive, lost):
        changed = sorted(stage.survivors ^ alive)
        raise RunError(
            f"{_refusal(own)} both secrets of {changed}: it has confirmed other lists before; both lay the update open"
        )
    message = write_confirmation(own.session, own.client, identity, alive, lost)
    return Confirmed(own, alive, lost), message


def reveal(stage: Confirmed, confirmations: Mapping[ClientId, bytes] | None = None) -> dict[ClientId, bytes]:
    """A share of every client: of a survivor's seed, or of a dropout's key.

    Where the session has identities, the threshold must have signed the same lists.
    """
    session, confirmed = stage.own.session, confirmations or {}
    if session.identities:
        text = survivors_text(session, stage.survivors, stage.dropouts)
        for client, message in confirmed.items():
            check_confirmation(session, client, message, stage.survivors, text)
        session.require(confirmed, "confirmed the same survivors")
    return {
        dealer: shares.seed if dealer in stage.survivors else shares.key for dealer, shares in stage.own.held.items()
    }


def _check_lists(own: Masked, survivors: frozenset[ClientId], dropouts: frozenset[ClientId]) -> None:
    if survivors & dropouts:
        both = sorted(survivors & dropouts)
        raise RunError(
            f"{_refusal(own)} both secrets of {both}, named survivors and dropouts: both lay the update open"
        )
    odd = sorted((survivors | dropouts) ^ {*own.held})
    if odd:
        raise RunError(f"{_refusal(own)}: survivors and dropouts must be all that dealt shares; they differ in {odd}")
    if own.client not in survivors:
        raise RunError(f"{_refusal(own)}: it has sent its input, but the server named it a dropout")
    own.session.require(survivors, "sent their input")


def _refusal(own: Masked) -> str:
    return f"{own.session.round}: client {own.client!r} refuses to reveal"
