"""Answers that were received in the round that is not finished: they wait for their turn, and survive a crash.

Sums are taken in the order of client ids, answers come in any. Those that came early lie here, one file each where
there is a folder, in memory where there is none; so the server holds the sum and one update. A server that was killed
finds them again and does not ask twice: a file names the question that it answers and carries its own SHA-256; a
question of another round makes it worthless. Files are not synced: what a dead machine loses is computed anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from safetensors.torch import load, save

from fedbraid.algebra import Tensors
from fedbraid.core import ClientId
from fedbraid.errors import StoppedRun
from fedbraid.runtimes.exchange import Answer

_ENDING = ".answer"


class Journal:
    """The answers to one question after another; `begin` forgets those to any other."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._to = ""
        self._held: dict[ClientId, Answer] = {}

    def begin(self, to: str) -> list[Answer]:
        """The answers to this question that are here already, in the order of client ids."""
        found = {answer.client: answer for answer in self._held.values() if self._to == to}
        self._to, self._held = to, found
        if self._folder:
            for path in sorted(self._folder.glob(f"*{_ENDING}*")):
                answer = _read(path, to)
                if answer is None:
                    path.unlink()
                else:
                    found[answer.client] = answer
        self._held = {} if self._folder else found
        return [found[client] for client in sorted(found)]

    def add(self, answer: Answer) -> None:
        """Keeps an answer to the question begun last; `StoppedRun` where the disk is full."""
        if not self._folder:
            self._held[answer.client] = answer
            return
        path = self._path(answer.client)
        content = _written(answer, self._to)
        draft = path.with_name(f"{path.name}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(content)
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise StoppedRun(
                f"cannot write {path}, {len(content)} bytes ({error.strerror}); the state before the round is intact"
            ) from error

    def take(self, client: ClientId, *, read: bool = True) -> bytes:
        """What this client sent, where it is to be read; in memory it is forgotten then."""
        if not self._folder:
            return self._held.pop(client).payload
        answer = _read(self._path(client), self._to) if read else Answer(client)
        if answer is None:
            raise StoppedRun(f"{self._path(client)} was changed while the round ran; resume the run to ask again")
        return answer.payload

    def _path(self, client: ClientId) -> Path:
        assert self._folder
        return self._folder / f"{quote(client, safe='')}{_ENDING}"


def _written(answer: Answer, to: str) -> bytes:
    """A line of JSON about the two parts that follow it."""
    kept = save(dict(answer.kept)) if answer.kept else b""
    body = answer.payload + kept
    facts = {"to": to, "client": answer.client, "payload": len(answer.payload), "sha256": _digest(to, answer, body)}
    return json.dumps(facts).encode() + b"\n" + body


def _read(path: Path, to: str) -> Answer | None:
    """The answer in a file; None where it is damaged, cut off, or to another question."""
    line, _, body = path.read_bytes().partition(b"\n")
    try:
        facts: Mapping[str, Any] = json.loads(line)
        length = int(facts["payload"])
        answer = Answer(str(facts["client"]), body[:length])
        if facts["to"] != to or facts["sha256"] != _digest(to, answer, body):
            return None
    except (ValueError, KeyError, TypeError):
        return None
    return Answer(answer.client, answer.payload, kept=_tensors(body[length:]))


def _tensors(content: bytes) -> Tensors:
    return load(content) if content else {}


def _digest(to: str, answer: Answer, body: bytes) -> str:
    header = f"{to}\n{answer.client}\n{len(answer.payload)}\n".encode()
    return hashlib.sha256(header + body).hexdigest()
