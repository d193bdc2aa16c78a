"""Parties as the sites of a deployment are, without anything that carries messages: bytes in, bytes out, a folder."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path

from fedbraid.algebra import Tensors
from fedbraid.core import EVALUATE, Client, ClientId, Round
from fedbraid.errors import RunError
from fedbraid.naming import file_name
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.exchange import Answer
from fedbraid.runtimes.holdings import Holdings
from fedbraid.runtimes.inprocess import InProcess
from fedbraid.runtimes.replying import reply_to


class Sites(InProcess):
    """Every client a site with a folder; the last asked answers first. Evaluators are here, as on a server.

    `run` names the folder in a site's own that holds what is of one run; unset they are the same.
    """

    def __init__(
        self,
        work: Work,
        clients: Mapping[ClientId, Client],
        evaluators: Mapping[ClientId, Client],
        folder: Path,
        *,
        run: str = "",
        identities: Mapping[ClientId, bytes] | None = None,
    ) -> None:
        super().__init__(work, clients, evaluators, identities=identities)
        self._clients = clients
        self._folder = folder
        self._run = run

    def ask(self, questions: Mapping[ClientId, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        if round.phase == EVALUATE:
            yield from super().ask(questions, received, round)
            return
        for client in sorted(questions, reverse=True):
            yield None
            home, identity = self._folder / file_name(client), self._identities.get(client)
            holdings, party = Holdings(home / self._run), self._clients[client]
            try:
                found = reply_to(questions[client], self._work, client, party, holdings, home=home, identity=identity)
            except RunError as error:
                yield Answer(client, fault=str(error))
            else:
                yield Answer(client, found)

    def kept(self) -> Tensors:
        return {}
