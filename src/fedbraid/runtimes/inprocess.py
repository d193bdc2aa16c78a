"""All parties in this process, one after another, with one model in memory whatever their number.

Every message passes through the codec, so bytes and rounding are those of a real deployment. A party that computes
cannot be interrupted: a deadline is looked at between two of them.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from torch import Tensor

from fedbraid.algebra import Tensors, prefix
from fedbraid.core import EVALUATE, Client, ClientId, Method, Model, Round
from fedbraid.errors import UserError
from fedbraid.progress import track
from fedbraid.runtimes.client import Masking, Side, Work, answer
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.exchange import Answer
from fedbraid.runtimes.gate import Gate
from fedbraid.runtimes.limits import Limits
from fedbraid.runtimes.masked_client import Asked, is_step, masked_answer
from fedbraid.runtimes.masked_state import InMemory
from fedbraid.runtimes.server import Server


class InProcess:
    """A transport over parties in memory; `kept` is what they kept for themselves before a resume.

    `identities` are the private ones, where masked rounds have any.
    """

    def __init__(
        self,
        work: Work,
        clients: Mapping[ClientId, Client],
        evaluators: Mapping[ClientId, Client],
        *,
        kept: Tensors | None = None,
        identities: Mapping[ClientId, bytes] | None = None,
    ) -> None:
        if not clients:
            raise UserError("a run needs at least one client")
        self.clients: Sequence[ClientId] = sorted(clients)
        self.evaluators: Sequence[ClientId] = sorted(evaluators)
        self._work = work
        self._parties = {**clients, **evaluators}
        self._kept: dict[str, dict[str, Tensor]] = {}
        for name, tensor in (kept or {}).items():
            home, _, own = name.partition("/")
            self._kept.setdefault(home, {})[own] = tensor
        self._identities = dict(identities or {})
        self._masked = {client: InMemory() for client in self._parties}

    def ask(self, questions: Mapping[ClientId, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        """The answers in the order of client ids, each computed when it is asked for."""
        for client in track(sorted(questions), _title(round)):
            found = self._answer(client, self._work.codec.text(questions[client]), received, round)
            self.keep(client, found.kept)
            yield found

    def _answer(self, client: ClientId, text: Mapping[str, str], received: Tensors, round: Round) -> Answer:
        party, memory = self._parties[client], dict(self._kept.get(_home(client), {}))
        if not is_step(text):
            return answer(self._work, client, party, received, memory, round, text["to"])
        asked = Asked(self._work, client, party, text, received, memory, self._identities.get(client))
        return masked_answer(asked, self._masked[client])

    def kept(self) -> Tensors:
        return {name: tensor for home, own in self._kept.items() for name, tensor in prefix(own, home).items()}

    def keep(self, client: ClientId, kept: Tensors) -> None:
        self._kept.setdefault(_home(client), {}).update(kept)

    def close(self) -> None:
        """There is nothing to end."""


def in_process(
    method: Method,
    model: Model,
    clients: Mapping[ClientId, Client],
    evaluators: Mapping[ClientId, Client],
    *,
    codec: Codec | None = None,
    lift_on: Side = "server",
    masking: Masking | None = None,
    kept: Tensors | None = None,
    limits: Limits | None = None,
    **options: Any,
) -> Server:
    """A server over parties in memory; with `limits` it has a gate. The other options are those of `Server`."""
    work = Work(method, model, codec or Codec(), lift_on, masking=masking)
    gate = Gate(work, limits) if limits else None
    return Server(work, InProcess(work, clients, evaluators, kept=kept), gate=gate, **options)


def _home(client: ClientId) -> str:
    """The client's id as the first part of a name; a slash in it would make it look like another client's."""
    return quote(client, safe="")


def _title(round: Round) -> str:
    return "evaluation" if round.phase == EVALUATE else f"round {round.index + 1} ({round.phase})"
