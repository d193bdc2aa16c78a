"""A party's own key in a file of its own folder, by which the others know its messages in masked sums (Ed25519).

The public halves of all parties are in everybody's settings (`secure.identities`), got from one another and not from
the server: a server that lies could otherwise pose as any of them.
"""

from __future__ import annotations

import os
from pathlib import Path

from fedbraid.errors import RunError, UserError
from fedbraid.secure.ciphers import KEY, identity_of, new_identity

FILE = "identity.key"


def make_identity(folder: Path) -> str:
    """The public half of a new key in this folder, in hexadecimal; of the one that is there, where there is one."""
    held = read_identity(folder)
    if held is not None:
        return identity_of(held).hex()
    private, public = new_identity()
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(private.hex() + "\n")
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    return public.hex()


def read_identity(folder: Path) -> bytes | None:
    """The private key in this folder; None where there is none, `UserError` where others can read it."""
    path = folder / FILE
    if not path.is_file():
        return None
    if path.stat().st_mode & 0o077:
        raise UserError(f"{path} is a secret that others can read; run: chmod 600 {path}")
    try:
        key = bytes.fromhex(path.read_text().strip())
    except ValueError:
        key = b""
    if len(key) != KEY:
        raise UserError(f"{path} holds no key of {KEY} bytes in hexadecimal; restore it from a copy")
    return key
