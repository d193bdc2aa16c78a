"""The server's side of a masked sum: it passes messages on, adds inputs up, and unmasks their sum.

    collect_keys            ->  Keys.advertised goes to all in it
    collect_shares          ->  Dealt.boxes[holder] goes to each holder
    collect_inputs          ->  Inputs.survivors and .dropouts go to all survivors
    collect_confirmations   ->  go to all survivors; only where the session has identities
    unmask                  ->  the sum

From the survivors' shares it recovers the survivors' seeds and the dropouts' keys, takes those masks off, and has the
plain sum of the survivors' words, bit for bit. A message that is refused costs its sender only, whom `refused` names
with the reason; below the threshold every step raises `BelowThreshold`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import numpy as np

from fedbraid.algebra import Statistic
from fedbraid.errors import RunError
from fedbraid.secure.ciphers import PrivateKey, private_key, public_key
from fedbraid.secure.fixed_point import Words, decode
from fedbraid.secure.masks import add_stream, common_seed, is_added
from fedbraid.secure.messages import (
    BOX,
    PublicKeys,
    check_confirmation,
    check_strength,
    digest_of,
    mark,
    marked,
    read_input,
    read_keys,
    survivors_text,
)
from fedbraid.secure.session import ClientId, Session
from fedbraid.secure.shamir import recover_each

Refused = Mapping[ClientId, str]
"""Whose message was refused, and why."""

_Message = TypeVar("_Message")
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Keys:
    """The accepted messages of keys, and what is in them."""

    session: Session
    advertised: Mapping[ClientId, bytes]
    public: Mapping[ClientId, PublicKeys]
    refused: Refused


@dataclass(frozen=True)
class Dealt:
    """`boxes[holder][dealer]` are sealed shares."""

    keys: Keys
    boxes: Mapping[ClientId, Mapping[ClientId, bytes]]
    refused: Refused


@dataclass(frozen=True)
class Inputs:
    """The sum of the survivors' masked words."""

    dealt: Dealt
    words: Words
    survivors: tuple[ClientId, ...]
    dropouts: tuple[ClientId, ...]
    refused: Refused

    @cached_property
    def present(self) -> frozenset[ClientId]:
        """The survivors, to be looked up."""
        return frozenset(self.survivors)


@dataclass(frozen=True)
class Confirmations:
    """The survivors' signatures under who has survived."""

    messages: Mapping[ClientId, bytes]
    refused: Refused


@dataclass(frozen=True)
class Unmasked:
    """The sum of the survivors' updates, and whose shares were refused on the way."""

    total: Statistic
    survivors: tuple[ClientId, ...]
    refused: Refused


def collect_keys(session: Session, messages: Mapping[ClientId, bytes]) -> Keys:
    """Checks every client's keys; weak, damaged and foreign ones are refused."""

    def read(client: ClientId, message: bytes) -> PublicKeys:
        keys = read_keys(session, client, message)
        check_strength(client, keys)
        return keys

    public, refused = _screen(messages, read)
    session.require(public, "advertised keys", refused)
    return Keys(session, {client: messages[client] for client in public}, public, refused)


def collect_shares(keys: Keys, messages: Mapping[ClientId, Mapping[ClientId, bytes]]) -> Dealt:
    """Sorts the boxes by holder; those to clients that did not deal themselves are left out."""

    def check(dealer: ClientId, boxes: Mapping[ClientId, bytes]) -> Mapping[ClientId, bytes]:
        if dealer not in keys.advertised:
            raise RunError(f"the shares of client {dealer!r} are refused: it advertised no keys")
        odd = sorted({*boxes} ^ {*keys.advertised})
        if odd or any(len(box) != BOX for box in boxes.values()):
            wrong = f"they differ from the holders in {odd}" if odd else f"a box has {BOX} bytes"
            raise RunError(f"the shares of client {dealer!r} are refused: {wrong}")
        return boxes

    accepted, refused = _screen(messages, check)
    keys.session.require(accepted, "dealt shares", refused)
    boxes = {holder: {dealer: accepted[dealer][holder] for dealer in accepted} for holder in accepted}
    return Dealt(keys, boxes, refused)


def collect_inputs(dealt: Dealt, arrivals: Iterable[tuple[ClientId, bytes]]) -> Inputs:
    """Adds the inputs up as they arrive, in any order: the sum is exact, and the only thing that is kept."""
    session = dealt.keys.session
    words, dealers = np.zeros(session.layout.size, np.uint64), digest_of(dealt.boxes)
    survivors: set[ClientId] = set()
    refused: dict[ClientId, str] = {}
    for client, message in arrivals:
        try:
            if client not in dealt.boxes or client in survivors:
                why = "it is counted already" if client in survivors else "it dealt no shares"
                raise RunError(f"the input of client {client!r} is refused: {why}")
            words += np.frombuffer(read_input(session, client, dealers, message), "<u8")
            survivors.add(client)
        except RunError as error:
            refused[client] = str(error)
    session.require(survivors, "sent their input", refused)
    dropouts = {*dealt.boxes} - survivors
    return Inputs(dealt, words, tuple(sorted(survivors)), tuple(sorted(dropouts)), refused)


def collect_confirmations(inputs: Inputs, messages: Mapping[ClientId, bytes]) -> Confirmations:
    """The signatures under the lists of survivors and dropouts."""
    session = inputs.dealt.keys.session
    text = survivors_text(session, inputs.survivors, inputs.dropouts)

    def check(client: ClientId, message: bytes) -> bytes:
        check_confirmation(session, client, message, inputs.present, text)
        return message

    accepted, refused = _screen(messages, check)
    session.require(accepted, "confirmed the survivors", refused)
    return Confirmations(accepted, refused)


def unmask(inputs: Inputs, reveals: Mapping[ClientId, Mapping[ClientId, bytes]]) -> Unmasked:
    """The sum of the survivors, from the shares that at least the threshold of them revealed."""
    session = inputs.dealt.keys.session
    accepted, refused = _screen(reveals, partial(_read_reveal, inputs))
    session.require(accepted, "revealed their shares", refused)
    holders = list(accepted)[: session.needed]

    def secrets_of(dealers: Sequence[ClientId]) -> Iterator[bytes]:
        shares = ([accepted[holder][dealer] for holder in holders] for dealer in dealers)
        return recover_each([session.points[holder] for holder in holders], shares)

    words = inputs.words.copy()
    for seed in secrets_of(inputs.survivors):
        add_stream(words, seed, negative=True)
    for dropout, key in zip(inputs.dropouts, secrets_of(inputs.dropouts), strict=True):
        _remove_common(words, inputs, dropout, private_key(key))
    return Unmasked(Statistic(decode(session.layout, words)), inputs.survivors, refused)


def _remove_common(words: Words, inputs: Inputs, dropout: ClientId, private: PrivateKey) -> None:
    """Takes off what the survivors have added for a client whose own half never came."""
    keys = inputs.dealt.keys
    if public_key(private) != keys.public[dropout].masking:
        raise RunError(
            f"{keys.session.round}: the shares that client {dropout!r} dealt do not give its key; nothing was summed; "
            f"start the round anew without it"
        )
    for survivor in inputs.survivors:
        seed = common_seed(keys.session, private, keys.public[survivor].masking, dropout, survivor)
        add_stream(words, seed, negative=is_added(survivor, dropout))


def _read_reveal(inputs: Inputs, holder: ClientId, shares: Mapping[ClientId, bytes]) -> Mapping[ClientId, bytes]:
    """The shares, where each is the one that was dealt to this holder."""
    session, boxes = inputs.dealt.keys.session, inputs.dealt.boxes
    if holder not in inputs.present:
        raise RunError(f"the shares that client {holder!r} reveals are refused: it is none of the survivors")
    odd = sorted({*shares} ^ {*boxes})
    if odd:
        raise RunError(f"the shares that client {holder!r} reveals are refused: they differ from the dealers in {odd}")
    for dealer, share in shares.items():
        kind = "seed" if dealer in inputs.present else "key"
        if mark(session, kind, dealer, holder, share) != marked(boxes[holder][dealer], kind):
            raise RunError(
                f"the shares that client {holder!r} reveals are refused: that of client {dealer!r} is not the one "
                f"that was dealt to it"
            )
    return shares


def _screen(
    messages: Mapping[ClientId, _Message], read: Callable[[ClientId, _Message], _Read]
) -> tuple[dict[ClientId, _Read], dict[ClientId, str]]:
    """(what was read, who was refused and why), in the order of client ids."""
    accepted: dict[ClientId, _Read] = {}
    refused: dict[ClientId, str] = {}
    for client in sorted(messages):
        try:
            accepted[client] = read(client, messages[client])
        except RunError as error:
            refused[client] = str(error)
    return accepted, refused
