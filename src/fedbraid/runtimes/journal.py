"""Answers that were received in the round that is not finished: they wait for their turn, and survive a crash.

Sums are taken in the order of client ids, answers come in any. Those that came early lie here, one file each where
there is a folder, in memory where there is none; so the server holds the sum and one update. A server that was killed
finds them again and does not ask twice: a file names the question that it answers and is sealed; a damaged one is asked
for again. Files are not synced: what a dead machine loses is computed anew.

A round and its evaluation are two questions, and the state is saved after both: so the answers to the question before
stay until the next begins.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from fedbraid.algebra import Tensors
from fedbraid.checkpoint import remove, write_durably
from fedbraid.core import ClientId
from fedbraid.errors import StoppedRun
from fedbraid.naming import file_name
from fedbraid.runtimes.exchange import Answer
from fedbraid.runtimes.sealed import opened, sealed

_ENDING = ".answer"
_QUESTIONS = 2


class Journal:
    """The answers to one question after another; `begin` forgets those to older ones."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._begun: list[str] = []
        self._held: dict[ClientId, Answer] = {}

    def begin(self, to: str) -> list[Answer]:
        """The answers to this question that are here already, in the order of client ids."""
        same = self._begun[-1:] == [to]
        self._begun = self._begun if same else [*self._begun, to][-_QUESTIONS:]
        self._held = self._held if same else {}
        found = {answer.client: answer for answer in self._on_disk(to)} if self._folder else self._held
        return [found[client] for client in sorted(found)]

    def add(self, answer: Answer) -> None:
        """Keeps an answer to the question begun last; `StoppedRun` where the disk is full."""
        if self._folder:
            write_durably(self._path(answer.client), _written(answer, self._begun[-1]), synced=False)
        else:
            self._held[answer.client] = answer

    def take(self, client: ClientId, *, read: bool = True) -> bytes:
        """What this client sent, where it is to be read; in memory it is forgotten then."""
        if not self._folder:
            return self._held.pop(client).payload
        answer = _read(self._path(client), self._begun[-1]) if read else Answer(client)
        if answer is None:
            raise StoppedRun(f"{self._path(client)} was changed while the round ran; resume the run to ask again")
        return answer.payload

    def _on_disk(self, to: str) -> list[Answer]:
        """The answers to this question; what is damaged, or answers a question that is over, is removed."""
        assert self._folder
        known = {_tag(begun) for begun in self._begun}
        found: list[Answer] = []
        for path in sorted(self._folder.glob(f"*{_ENDING}")):
            tag = path.name.removesuffix(_ENDING).rpartition(".")[2]
            answer = _read(path, to) if tag == _tag(to) else None
            if answer:
                found.append(answer)
            elif tag == _tag(to) or (tag not in known and len(known) == _QUESTIONS):
                remove(path)
        return found

    def _path(self, client: ClientId) -> Path:
        assert self._folder
        return self._folder / f"{file_name(client)}.{_tag(self._begun[-1])}{_ENDING}"


def _tag(to: str) -> str:
    return hashlib.sha256(to.encode()).hexdigest()[:16]


def _written(answer: Answer, to: str) -> bytes:
    kept = save(dict(answer.kept)) if answer.kept else b""
    return sealed({"to": to, "client": answer.client, "payload": len(answer.payload)}, answer.payload + kept)


def _read(path: Path, to: str) -> Answer | None:
    """The answer in a file; None where it is damaged, cut off, or to another question."""
    found = opened(path)
    if found is None:
        return None
    facts, body = found
    try:
        if facts["to"] != to:
            return None
        length = int(facts["payload"])
        return Answer(str(facts["client"]), body[:length], kept=_tensors(body[length:]))
    except (KeyError, TypeError, ValueError, SafetensorError):
        return None


def _tensors(content: bytes) -> Tensors:
    return load(content) if content else {}
