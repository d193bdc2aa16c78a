"""What the messages of a masked sum look like, and the checks that both sides make of them.

    keys          64 bytes: two public keys; with identities 64 more, a signature
    shares        158 bytes for every holder: two marks, a nonce, two sealed shares
    input         32 bytes that name sum and sender, then the words
    confirmation  64 bytes: a signature; none without identities
    reveal        33 bytes for every dealer: one share

A mark is the hash of a share with all its context. Shares are uniformly random numbers of 256 bits, so a mark tells
nothing, but the holder sees that its share is the one marked, and later the server that it is the one revealed: a false
share is its holder's, by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fedbraid.errors import RunError, UserError
from fedbraid.secure.ciphers import KEY, SEALING, digest, identity_of, is_public_key, is_signed, seal, sign, unseal
from fedbraid.secure.session import ClientId, Session
from fedbraid.secure.shamir import SHARE

MARK = 32
BOX = 2 * MARK + SEALING + 2 * SHARE
"""Bytes of the shares for one holder."""
_SIGNATURE = 64
_TAG = 32


@dataclass(frozen=True)
class PublicKeys:
    """What one client advertises: the key under which shares are sealed for it, and the key of its common masks."""

    sealing: bytes
    masking: bytes


@dataclass(frozen=True)
class Shares:
    """One client's shares of another one's two secrets: the seed of its own mask, and the private key of its masks."""

    seed: bytes
    key: bytes


def write_keys(session: Session, client: ClientId, keys: PublicKeys, identity: bytes | None) -> bytes:
    body = keys.sealing + keys.masking
    return body + _signature(session, client, identity, digest("keys", session.digest, client, body))


def read_keys(session: Session, client: ClientId, message: bytes) -> PublicKeys:
    """`RunError` where the client is none of this sum, or its keys are damaged or not signed by it."""
    if client not in session.points:
        raise RunError(f"client {client!r} is none of this sum; its keys are refused")
    body, signature = message[: 2 * KEY], message[2 * KEY :]
    keys = PublicKeys(body[:KEY], body[KEY:])
    if len(body) < 2 * KEY:
        raise RunError(f"the keys of client {client!r} are refused: {len(body)} bytes instead of {2 * KEY}")
    _check_signature(session, client, signature, digest("keys", session.digest, client, body), "keys")
    return keys


def check_strength(client: ClientId, keys: PublicKeys) -> None:
    """`RunError` for keys with which nobody can agree; it keeps one client from stopping all others."""
    if not (is_public_key(keys.sealing) and is_public_key(keys.masking)):
        raise RunError(f"the keys of client {client!r} are refused: they are no proper X25519 keys")


def seal_shares(session: Session, key: bytes, view: bytes, dealer: ClientId, holder: ClientId, shares: Shares) -> bytes:
    """The dealer's shares for one holder. `view` is the digest of all advertised keys as the dealer saw them."""
    marks = mark(session, "seed", dealer, holder, shares.seed) + mark(session, "key", dealer, holder, shares.key)
    return marks + seal(key, shares.seed + shares.key, _seal_context(session, view, dealer, holder, marks))


def unseal_shares(session: Session, key: bytes, view: bytes, dealer: ClientId, holder: ClientId, box: bytes) -> Shares:
    """`RunError` naming the dealer where its shares are not for this holder and sum, or not those that it marked."""
    marks, sealed = box[: 2 * MARK], box[2 * MARK :]
    plain = unseal(key, sealed, _seal_context(session, view, dealer, holder, marks))
    if plain is None or len(plain) != 2 * SHARE:
        raise RunError(
            f"{session.round}: client {holder!r} refuses the shares of client {dealer!r}: they are changed on the way, "
            f"of another round, or sealed for another list of keys; start the round anew"
        )
    shares = Shares(plain[:SHARE], plain[SHARE:])
    given = mark(session, "seed", dealer, holder, shares.seed) + mark(session, "key", dealer, holder, shares.key)
    if given != marks:
        raise RunError(
            f"{session.round}: client {holder!r} refuses the shares of client {dealer!r}: they are not those that it "
            f"marked; start the round anew without {dealer!r}"
        )
    return shares


def mark(session: Session, kind: str, dealer: ClientId, holder: ClientId, share: bytes) -> bytes:
    """The hash by which a share is known; `kind` is `seed` or `key`."""
    return digest("share", session.digest, kind, dealer, holder, share)


def marked(box: bytes, kind: str) -> bytes:
    """The mark that a box carries for its share of this kind."""
    return box[:MARK] if kind == "seed" else box[MARK : 2 * MARK]


def view_of(advertised: Mapping[ClientId, bytes]) -> bytes:
    """The digest of all advertised keys."""
    return digest(*(part for client in sorted(advertised) for part in (client, advertised[client])))


def digest_of(clients: Collection[ClientId]) -> bytes:
    """The digest of a list of clients."""
    return digest(*sorted(clients))


def input_tag(session: Session, client: ClientId, dealers: bytes) -> bytes:
    """What stands before a masked input: it fits one client in one sum under the masks of dealers of this digest."""
    return digest("input", session.digest, client, dealers)


def read_input(session: Session, client: ClientId, dealers: bytes, message: bytes) -> memoryview:
    """The bytes of the words; `RunError` for an input of another client, round or size."""
    size = _TAG + 8 * session.layout.size
    if len(message) != size:
        raise RunError(f"the input of client {client!r} is refused: {len(message)} bytes instead of {size}")
    if message[:_TAG] != input_tag(session, client, dealers):
        raise RunError(f"the input of client {client!r} is refused: it belongs to another client, round or attempt")
    return memoryview(message)[_TAG:]


def write_confirmation(
    session: Session,
    client: ClientId,
    identity: bytes | None,
    survivors: Collection[ClientId],
    dropouts: Collection[ClientId],
) -> bytes:
    return _signature(session, client, identity, survivors_text(session, survivors, dropouts))


def check_confirmation(
    session: Session, client: ClientId, message: bytes, survivors: Collection[ClientId], text: bytes
) -> None:
    """`RunError` where the client is none of the survivors, or did not sign the text about them."""
    if client not in survivors:
        raise RunError(f"the confirmation of client {client!r} is refused: it is none of the survivors")
    _check_signature(session, client, message, text, "confirmation")


def _seal_context(session: Session, view: bytes, dealer: ClientId, holder: ClientId, marks: bytes) -> bytes:
    return digest("shares", session.digest, view, dealer, holder, marks)


def survivors_text(session: Session, survivors: Collection[ClientId], dropouts: Collection[ClientId]) -> bytes:
    """What survivors sign."""
    return digest("survivors", session.digest, digest_of(survivors), digest_of(dropouts))


def _signature(session: Session, client: ClientId, identity: bytes | None, text: bytes) -> bytes:
    if not session.identities:
        return b""
    if identity is None or identity_of(identity) != session.identities[client]:
        raise UserError(f"client {client!r} signs with the private key of its identity; give the one of this session")
    return sign(identity, text)


def _check_signature(session: Session, client: ClientId, signature: bytes, text: bytes, what: str) -> None:
    known = session.identities.get(client)
    good = signature == b"" if known is None else len(signature) == _SIGNATURE and is_signed(known, signature, text)
    if not good:
        raise RunError(
            f"{session.round}: the {what} of client {client!r} is refused: not signed by it for this sum; "
            f"a replay, a change on the way, or another identity"
        )
