"""All cryptography in one place: hashes from the standard library, everything else from the `cryptography` package.

X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), ChaCha20 and ChaCha20-Poly1305 (RFC 8439), Ed25519 (RFC 8032). The package is
imported at first use, so that this one is importable without it. ChaCha20 rather than AES in counter mode for the
masks: as fast here, and without timing differences on processors that have no AES instructions.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from importlib import import_module
from typing import Any

from fedbraid.errors import UserError

KEY = 32
"""Bytes of every key and seed."""

Random = Callable[[int], bytes]
"""A source of that many random bytes."""

PrivateKey = Any
"""A loaded X25519 private key."""

_NONCE = 12
SEALING = _NONCE + 16
"""Bytes that a sealed text has more than the plain one."""


def digest(*parts: str | int | bytes) -> bytes:
    """SHA-256 of the parts, each under its length, so that no two lists of parts share their bytes.

    >>> digest("ab", "c") == digest("a", "bc")
    False
    """
    found = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        found.update(len(data).to_bytes(8, "big") + data)
    return found.digest()


def private_key(raw: bytes) -> PrivateKey:
    """The X25519 key of these bytes; loading takes as long as an agreement, so load it once."""
    return _agreement().X25519PrivateKey.from_private_bytes(raw)


def public_key(private: PrivateKey) -> bytes:
    """The X25519 public key of a private one."""
    return private.public_key().public_bytes_raw()


def agreed_key(private: PrivateKey, public: bytes, *, salt: bytes, info: bytes) -> bytes:
    """The key that both owners get: X25519, then HKDF-SHA256. `ValueError` where the public key is of low order."""
    kdf, hashes = _library("hazmat.primitives.kdf.hkdf"), _library("hazmat.primitives.hashes")
    return kdf.HKDF(algorithm=hashes.SHA256(), length=KEY, salt=salt, info=info).derive(_exchange(private, public))


def is_public_key(public: bytes) -> bool:
    """Whether an agreement with this key depends on the private key: keys of low order give zero with every one."""
    try:
        _exchange(private_key(secrets.token_bytes(KEY)), public)
    except ValueError:
        return False
    return True


def keystream(key: bytes) -> Any:
    """ChaCha20 from its first block on, to be used with one key once: `update_into(zeros, buffer)` fills the buffer."""
    chacha = _library("hazmat.primitives.ciphers.algorithms").ChaCha20(key, bytes(16))
    return _library("hazmat.primitives.ciphers").Cipher(chacha, mode=None).encryptor()


def seal(key: bytes, plain: bytes, context: bytes) -> bytes:
    """ChaCha20-Poly1305 under a random nonce, which stands first."""
    nonce = secrets.token_bytes(_NONCE)
    return nonce + _aead(key).encrypt(nonce, plain, context)


def unseal(key: bytes, sealed: bytes, context: bytes) -> bytes | None:
    """What was sealed; None where it was not sealed so with this key for this context."""
    try:
        return _aead(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], context)
    except (_library("exceptions").InvalidTag, ValueError):
        return None


def new_identity() -> tuple[bytes, bytes]:
    """(private, public): a fresh Ed25519 pair, made once per client and kept; the public one is given to everybody."""
    private = secrets.token_bytes(KEY)
    return private, identity_of(private)


def identity_of(private: bytes) -> bytes:
    """The Ed25519 public key of a private one."""
    return _signing().Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def sign(private: bytes, text: bytes) -> bytes:
    return _signing().Ed25519PrivateKey.from_private_bytes(private).sign(text)


def is_signed(public: bytes, signature: bytes, text: bytes) -> bool:
    try:
        _signing().Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except (_library("exceptions").InvalidSignature, ValueError):
        return False
    return True


def _exchange(private: PrivateKey, public: bytes) -> bytes:
    return private.exchange(_agreement().X25519PublicKey.from_public_bytes(public))


def _agreement() -> Any:
    return _library("hazmat.primitives.asymmetric.x25519")


def _signing() -> Any:
    return _library("hazmat.primitives.asymmetric.ed25519")


def _aead(key: bytes) -> Any:
    return _library("hazmat.primitives.ciphers.aead").ChaCha20Poly1305(key)


def _library(name: str) -> Any:
    try:
        return import_module(f"cryptography.{name}")
    except ImportError as error:
        raise UserError(
            f"masked sums need an extra that is not installed: pip install 'fedbraid[secure]' ({error})"
        ) from error
