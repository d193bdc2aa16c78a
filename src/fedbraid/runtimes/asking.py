"""Questions to parties, whatever carries them: what is new to each, who is asked again, when nobody is waited for.

Shared by rounds in clear (see `server`) and masked ones (see `masked_server`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from fedbraid.algebra import Tensors
from fedbraid.core import ClientId, Round
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.delivery import Delivery, News
from fedbraid.runtimes.exchange import Answer, Transport, spell
from fedbraid.runtimes.rules import Rules, Tell, tell_nobody

Sent = Callable[[ClientId, int], None]
"""Takes note of how many bytes a party was sent."""


@dataclass(frozen=True)
class Question:
    """What a round asks: the shared tensors, and what every party makes of them. `to` is what its answers name.

    `text` is said beside what every question says.
    """

    shared: Tensors
    received: Tensors
    round: Round
    to: str
    text: Mapping[str, str] = field(default_factory=dict[str, str])


class Asking:
    """Asks the parties of a transport; `run` names the run, `memory` is what an earlier one's gave."""

    def __init__(
        self,
        codec: Codec,
        transport: Transport,
        *,
        rules: Rules | None = None,
        run: str = "",
        memory: Mapping[str, Any] | None = None,
        tell: Tell = tell_nobody,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.codec = codec
        self.transport = transport
        self.rules = rules or Rules()
        self.delivery = Delivery(memory)
        self.tell = tell
        self.clock = clock
        self._run = run
        self._messages: dict[tuple[str, News], bytes] = {}
        self._lost: set[ClientId] = set()
        self._said: set[ClientId] = set()

    def begin(self, shared: Tensors, round: Round) -> Question:
        """The question of a round, its tensors published."""
        received = self.codec.decode(self.codec.encode(shared)).tensors  # rounded, once for all parties
        self.delivery.publish(received)
        self._messages.clear()
        self._lost.clear()
        self._said.clear()
        text = f"{self._run}\n{spell(round)}\n{self.delivery.digest()}"
        return Question(shared, received, round, hashlib.sha256(text.encode()).hexdigest()[:32])

    def messages(
        self,
        question: Question,
        clients: Sequence[ClientId],
        sent: Sent,
        own: Mapping[ClientId, Mapping[str, str]] | None = None,
    ) -> dict[ClientId, bytes]:
        """What each is sent: what is new to it, and what is said to it alone.

        Clients that miss the same, and are told the same, get the same message.
        """
        found: dict[ClientId, bytes] = {}
        for client in clients:
            news = self.delivery.news(client)
            if own:
                found[client] = self._message(question, news, own[client])
            else:
                if (question.to, news) not in self._messages:
                    self._messages[question.to, news] = self._message(question, news, {})
                found[client] = self._messages[question.to, news]
            sent(client, len(found[client]))
        return found

    def answers(
        self,
        question: Question,
        messages: Mapping[ClientId, bytes],
        missing: Callable[[], Sequence[ClientId]],
        again: Callable[[Sequence[ClientId]], Mapping[ClientId, bytes]],
        *,
        over: float,
    ) -> Generator[Answer]:
        """What comes until nobody is missing or the time is over; `again` writes to those who are asked once more."""
        for attempt in itertools.count():
            clients = [client for client in missing() if attempt <= self.rules.retries or client in self._lost]
            self._lost.clear()
            if not clients or self.clock() >= over:
                return
            if attempt:
                messages = again(clients)
                self.tell("again", clients=list(clients))
            asked = {client: messages[client] for client in clients}
            with closing(self.transport.ask(asked, question.received, question.round)) as coming:
                for found in coming:
                    if found is not None:
                        yield found
                    if self.clock() >= over:
                        return

    def lost(self, client: ClientId) -> None:
        """This party has lost what it was sent: that is no failure, so it is asked once more whatever the retries.

        Else a server that went back by one state would wait for parties that are ahead of it in vain.
        """
        if client not in self._said:
            self._said.add(client)
            self._lost.add(client)

    def forget(self, clients: Sequence[ClientId]) -> None:
        """Nobody knows what has arrived at these: they will be sent everything."""
        for client in clients:
            self.delivery.forget(client)

    def _message(self, question: Question, news: News, own: Mapping[str, str]) -> bytes:
        text = {
            "round": spell(question.round),
            "to": question.to,
            "same": json.dumps(news.same),
            "gone": json.dumps(news.gone),
            "first": "yes" if news.first else "no",
            "all": self.delivery.digest(),
            **question.text,
            **own,
        }
        return self.codec.encode({key: question.shared[key] for key in news.send}, text)
