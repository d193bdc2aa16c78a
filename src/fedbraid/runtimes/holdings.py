"""What a party holds on its own disk between two questions: what it received, what it keeps, what it answered last.

A question carries only what is new (see `delivery`) and a digest of everything; a party whose holdings do not come to
that digest has lost something, says so, and is sent everything. One that is asked the same again, because its answer
was lost or the server was killed, gives the same bytes again and computes nothing.

    received.safetensors    what it was sent; a lost or damaged one is sent again
    answer                  what it answered last; a lost or damaged one is computed again
    <number>-<round>.kept   what it keeps after the rounds that it answered last

Nobody else has what a party keeps, so that alone is synced, and a damaged one is an error. A server may go back by one
state and then asks for a round before its last: what belongs to a question is what was kept before the same round.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.checkpoint import remove, write_durably
from fedbraid.errors import RunError
from fedbraid.runtimes.codec import Message
from fedbraid.runtimes.delivery import News, digest_of, digest_of_all
from fedbraid.runtimes.sealed import opened, sealed

RECEIVED, KEPT, ANSWER = "received.safetensors", ".kept", "answer"
GENERATIONS = 3
"""A server that goes back by one state in mid-round asks for the round before the last again: after it, after the last,
and before both."""


class Holdings:
    """The holdings of one party, in a folder that is its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        return self._folder

    def answered(self, to: str) -> bytes | None:
        """The answer to this question where it is the one that was answered last."""
        found = opened(self._folder / ANSWER)
        return found[1] if found and found[0].get("to") == to else None

    def receive(self, message: Message) -> Tensors | None:
        """All shared tensors after this question; None where what came earlier is gone."""
        news = _news(message)
        held = {} if news.first else self._received()  # what else lies here is another run's
        contents = {digest_of(tensor): tensor for tensor in (*held.values(), *message.tensors.values())}
        found = {name: tensor for name, tensor in held.items() if name not in news.gone} | dict(message.tensors)
        if any(digest not in contents for _, digest in news.same):
            return None
        found |= {name: contents[digest] for name, digest in news.same}
        if digest_of_all({name: digest_of(tensor) for name, tensor in found.items()}) != message.text["all"]:
            return None
        found = {name: found[name] for name in sorted(found)}
        content = save({name: tensor.clone() for name, tensor in found.items()})
        write_durably(self._folder / RECEIVED, content, synced=False)
        return found

    def kept(self, round: str) -> dict[str, Tensor]:
        """What the party had kept for itself when it was first asked for this round; `RunError` where it is damaged."""
        before = self._before(round)
        if not before:
            return {}
        found = opened(before[-1])
        if found is None:
            raise RunError(
                f"{before[-1]} is damaged, and nobody else has what this party keeps for itself; restore the file from "
                "a copy, or begin a new run"
            )
        try:
            tensors = load(found[1])
        except SafetensorError as error:
            raise RunError(f"{before[-1]} holds no tensors ({error}); restore the file from a copy") from error
        return {key: tensors[key] for key in sorted(tensors)}

    def answer(self, to: str, round: str, payload: bytes, kept: Mapping[str, Tensor] | None) -> None:
        """Takes note of an answer, and with it of what the party keeps from now on: as before, where that is None."""
        memory = {} if kept is None else {**self.kept(round), **kept}
        if memory:
            self._keep(round, save(memory))
        write_durably(self._folder / ANSWER, sealed({"to": to}, payload), synced=False)

    def _keep(self, round: str, memory: bytes) -> None:
        """Once what is kept is on disk the same question finds what was there before it, also where no answer is."""
        before, all_kept = self._before(round), self._all_kept()
        number = _number(before[-1]) + 1 if before else 1
        for path in all_kept[len(before) + 1 :]:
            remove(path)  # of rounds that are asked for again
        write_durably(self._folder / f"{number:06d}-{_tag(round)}{KEPT}", sealed({}, memory))
        for path in before[: 1 - GENERATIONS]:
            remove(path)

    def _before(self, round: str) -> list[Path]:
        """What was kept after the rounds before this one, oldest first."""
        paths = self._all_kept()
        tags = [path.name.removesuffix(KEPT).partition("-")[2] for path in paths]
        if _tag(round) not in tags:
            return paths
        before = paths[: tags.index(_tag(round))]
        if not before and _number(paths[0]) > 1:
            raise RunError(f"{self._folder} holds nothing from before {round}: the server went back too far")
        return before

    def _all_kept(self) -> list[Path]:
        return sorted(self._folder.glob(f"[0-9]*{KEPT}"))

    def _received(self) -> Tensors:
        try:
            return load((self._folder / RECEIVED).read_bytes())
        except (OSError, SafetensorError):
            return {}  # it will be sent again


def _news(message: Message) -> News:
    """What a question tells of the tensors that it brings and does not bring; `RunError` where it does not."""
    try:
        text = message.text
        same = tuple((str(name), str(digest)) for name, digest in json.loads(text["same"]))
        gone = tuple(str(name) for name in json.loads(text["gone"]))
        return News(tuple(message.tensors), same, gone, first=text["first"] == "yes" and bool(text["all"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunError(f"a question that does not tell what it brings ({type(error).__name__}: {error})") from error


def _number(path: Path) -> int:
    return int(path.name.partition("-")[0])


def _tag(round: str) -> str:
    return hashlib.sha256(round.encode()).hexdigest()[:16]
