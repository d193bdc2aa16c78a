"""Masks: streams of words that look random to whoever has no seed, and cancel in the sum.

A mask is the ChaCha20 stream of a 32-byte seed read as little-endian 64-bit words. Client u adds the stream of its own
random seed b_u, and for every other client v the stream of their common seed s_uv, one of both with a minus:

    y_u = x_u + stream(b_u) + sum_{v > u} stream(s_uv) - sum_{v < u} stream(s_uv)    (mod 2^64)

Common seeds come from X25519 and HKDF-SHA256 with all the context; no seed is ever made shorter. Every seed is used for
one stream.
"""

from __future__ import annotations

import numpy as np

from fedbraid.errors import RunError
from fedbraid.secure.ciphers import PrivateKey, agreed_key, digest, keystream
from fedbraid.secure.fixed_point import Words
from fedbraid.secure.session import ClientId, Session

_CHUNK = 2**14  # words; 128 kB stay in the processor's cache between making and adding them


def stream(seed: bytes, size: int) -> Words:
    """The first words of a seed's mask."""
    words = np.zeros(size, np.uint64)
    add_stream(words, seed)
    return words


def add_stream(words: Words, seed: bytes, *, negative: bool = False) -> None:
    """Adds a seed's mask to the words in place, or takes it off."""
    source = keystream(seed)
    size = min(_CHUNK, len(words))
    zeros, buffer = bytes(8 * size), bytearray(8 * size)
    chunk, combine = np.frombuffer(buffer, "<u8"), np.subtract if negative else np.add
    for start in range(0, len(words), _CHUNK):
        part = words[start : start + size]
        source.update_into(zeros, buffer)
        combine(part, chunk[: len(part)], out=part)


def common_seed(session: Session, private: PrivateKey, public: bytes, own: ClientId, peer: ClientId) -> bytes:
    """The seed that two clients share, from the private key of one and the public key of the other."""
    return _agreed(session, private, public, "mask", *sorted((own, peer)))


def sealing_key(session: Session, private: PrivateKey, public: bytes, dealer: ClientId, holder: ClientId) -> bytes:
    """The key under which a dealer's shares travel to their holder."""
    return _agreed(session, private, public, "shares", dealer, holder)


def is_added(own: ClientId, peer: ClientId) -> bool:
    """Whether `own` adds the mask that it shares with `peer`, who then takes it off."""
    return own < peer


def _agreed(
    session: Session, private: PrivateKey, public: bytes, purpose: str, first: ClientId, second: ClientId
) -> bytes:
    try:
        return agreed_key(private, public, salt=session.digest, info=digest(purpose, first, second))
    except ValueError as error:
        raise RunError(
            f"{session.round}: clients {first!r} and {second!r} agree on no key, since a public key is no proper one; "
            f"the server should have refused it; start the round anew"
        ) from error
