"""What a party holds on its own disk between two questions: what it received, what it keeps, what it answered last.

A question carries only what is new (see `delivery`) and a digest of everything; a party whose holdings do not come to
that digest has lost something, says so, and is sent everything. One that is asked the same again, because its answer
was lost or the server was killed, gives the same bytes again and computes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.errors import RunError
from fedbraid.runtimes.codec import Message
from fedbraid.runtimes.delivery import digest_of, digest_of_all

RECEIVED, KEPT, ANSWER = "received.safetensors", "kept.safetensors", "answer"


class Holdings:
    """The holdings of one party, in a folder that is its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def answered(self, to: str) -> bytes | None:
        """The answer to this question where it is the one that was answered last."""
        path = self._folder / ANSWER
        if not path.is_file():
            return None
        named, _, payload = path.read_bytes().partition(b"\n")
        return payload if named == to.encode() else None

    def receive(self, message: Message) -> Tensors | None:
        """All shared tensors after this question; None where what came earlier is gone."""
        held = {} if message.text["first"] == "yes" else self._read(RECEIVED)  # what else lies here is another run's
        contents = {digest_of(tensor): tensor for tensor in (*held.values(), *message.tensors.values())}
        gone = json.loads(message.text["gone"])
        found = {name: tensor for name, tensor in held.items() if name not in gone} | dict(message.tensors)
        try:
            found |= {name: contents[digest] for name, digest in json.loads(message.text["same"])}
        except KeyError:
            return None
        if digest_of_all({name: digest_of(tensor) for name, tensor in found.items()}) != message.text["all"]:
            return None
        found = {name: found[name] for name in sorted(found)}
        self._write(RECEIVED, save({name: tensor.clone() for name, tensor in found.items()}))
        return found

    def kept(self) -> dict[str, Tensor]:
        """What the party has kept for itself."""
        return self._read(KEPT)

    def answer(self, to: str, payload: bytes, kept: Mapping[str, Tensor]) -> None:
        """Takes note of an answer, and with it of what the party keeps from now on."""
        if kept:
            self._write(KEPT, save({**self.kept(), **kept}))
        self._write(ANSWER, to.encode() + b"\n" + payload)

    def _read(self, name: str) -> dict[str, Tensor]:
        path = self._folder / name
        if not path.is_file():
            return {}
        try:
            found = load_file(path)
        except Exception as error:  # the library raises errors of many kinds
            if name == RECEIVED:
                return {}  # it will be sent again
            raise RunError(f"{path} is damaged ({error}); without it this party cannot go on") from error
        return {key: found[key] for key in sorted(found)}

    def _write(self, name: str, content: bytes) -> None:
        draft = self._folder / f".{name}.part"
        draft.write_bytes(content)
        os.replace(draft, self._folder / name)
