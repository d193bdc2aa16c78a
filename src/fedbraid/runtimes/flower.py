"""Parties behind Flower: questions and answers as bytes inside messages over a `Grid`, and nothing else of Flower.

Deadlines, quorum, sampling, checks and sums are the server's (see `server`); Flower carries messages (see `envelope`).
Replies are told apart by the message that they reply to, since an error reply about a dead node does not come from that
node. Clients are named by what their node said when it was greeted, once a node; where nodes are registered by name (as
`file_name` gives it), a node is the client of that name and no other. The handshake may carry what a site must know of
the run.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from fedbraid.algebra import Tensors
from fedbraid.core import EVALUATE, ClientId, Round
from fedbraid.errors import RunError
from fedbraid.naming import file_name
from fedbraid.runtimes.envelope import pack, unpack
from fedbraid.runtimes.exchange import Answer, Transport
from fedbraid.runtimes.pulling import Pulling

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp import Grid

QUESTION, GREETING, CHECK = "train", "query", "evaluate"
"""Flower's names for the kinds of message."""
PULL = 0.05
"""Seconds between two looks for replies."""
LOOK = 1000
"""The most messages whose replies a look asks for: without a limit each look would take as long as there are clients,
and their replies could fill the memory at once."""
GREETED = 10.0
"""Seconds to wait for the names of new nodes."""
RETURN = 30.0
"""Seconds for which a client is waited for whose node has just been lost: what starts it again is on its way."""
REPLY_CAP = 65536
"""The most bytes of a reply to a greeting that are read."""


class Opened(Protocol):
    """What opens a grid when the first message is sent, and closes it."""

    def open(self) -> Grid: ...
    def close(self) -> None: ...


class OverGrid:
    """A transport over the nodes of a grid. Evaluations are answered by `here`, which holds the test samples; without
    it the nodes count their own.

    `clients` are those expected; one whose node is not there when it is asked has failed. `handshake` is what nodes are
    greeted with. Where nodes are `registered`, each answers for the client of its name alone.
    """

    def __init__(
        self,
        opened: Opened,
        clients: Sequence[ClientId],
        here: Transport | None,
        *,
        handshake: bytes = b"",
        registered: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clients: Sequence[ClientId] = sorted(clients)
        self.evaluators: Sequence[ClientId] = here.evaluators if here else self.clients
        self._opened = opened
        self._here = here
        self._clock = clock
        self._grid: Grid | None = None
        self._handshake = handshake
        self._registered = {file_name(client): client for client in self.clients} if registered else None
        self._names: dict[int, ClientId] = {}
        self._greetings: dict[str, int] = {}
        self._names_coming: Pulling | None = None
        self._faults: dict[ClientId, RunError] = {}
        self._lost: dict[ClientId, float] = {}

    def ask(self, questions: Mapping[ClientId, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        """Answers in the order in which they come; at once a fault for a client without a node.

        A client whose node was lost a moment ago is asked when it is back, after the others.
        """
        if round.phase == EVALUATE and self._here:
            yield from self._here.ask(questions, received, round)
            return
        left = dict(questions)
        while left:
            yield from self._greet()
            nodes = {client: node for client, node in self._present().items() if client in left}
            for client in sorted(left.keys() - nodes.keys()):
                if not self._returns(client):
                    del left[client]
                    error = self._faults.get(client, RunError("its node is not connected"))
                    yield Answer(client, fault=str(error), error=error)
            sent = {nodes[client]: left.pop(client) for client in sorted(nodes)}
            for node, reply in self._exchange(sent, QUESTION) if sent else ():
                yield None if node is None else self._answer(node, reply)
            if left:
                yield None
                time.sleep(PULL)

    def kept(self) -> Tensors:
        """Nothing: parties keep what is theirs at their nodes."""
        return {}

    def keep(self, client: ClientId, kept: Tensors) -> None:
        """Nothing is given back, as nothing was taken."""

    def close(self) -> None:
        """Ends what the grid stands on."""
        if self._grid is not None:
            self._opened.close()
            self._grid = self._names_coming = None

    def connect(self, within: float = 300.0) -> None:
        """Waits until all clients have a node: that is no round's time. `RunError` where some have none."""
        until = self._clock() + within
        while missing := self._missing():
            if self._clock() >= until:
                raise RunError(f"no node came for clients {', '.join(missing)} within {within:.0f} s")
            time.sleep(PULL)

    def gather(self, within: float) -> list[ClientId]:
        """Waits until all clients have a node, or this long; the clients that have none."""
        until = self._clock() + within
        while (missing := self._missing()) and self._clock() < until:
            time.sleep(PULL)
        return missing

    def check(self, within: float) -> dict[ClientId, bytes | RunError]:
        """What the clients that are there say of the run before it begins, or why they say nothing."""
        found: dict[ClientId, bytes | RunError] = {client: self._faults[client] for client in self._faults}
        nodes = {node: client for client, node in self._present().items()}
        until = self._clock() + within
        for node, reply in self._exchange(dict.fromkeys(nodes, b""), CHECK) if nodes else ():
            if node is not None and reply is not None:
                try:
                    found[nodes[node]] = unpack(reply)
                except RunError as error:
                    found[nodes[node]] = error
            if self._clock() >= until:
                break
        return found

    def _missing(self) -> list[ClientId]:
        for _ in self._greet():
            pass
        return sorted(set(self.clients) - self._present().keys())

    def _greet(self) -> Generator[None]:
        """Asks nodes that are new for their name, and waits a little; one that is busy may answer later."""
        owners = self._owners()
        known = {*self._names, *self._greetings.values()}
        new = {node: self._handshake for node in owners if node not in known}
        self._greetings |= _push(self._connected(), new, GREETING) if new else {}
        until = self._clock() + GREETED
        while self._greetings:
            for node, reply in _pull(self._greeted(), self._greetings):
                self._introduce(node, owners.get(node), reply)
            if not self._greetings or self._clock() >= until:
                return
            yield None
            time.sleep(PULL)

    def _greeted(self) -> Pulling:
        if self._names_coming is None:
            self._names_coming = Pulling(self._connected(), PULL)
        return self._names_coming

    def _owners(self) -> dict[int, ClientId | None]:
        """The nodes that are there, each with the client that it is registered for, if nodes are."""
        grid = self._connected()
        if self._registered is None:
            return dict.fromkeys(sorted(grid.get_node_ids()))
        nodes = sorted((node.node_id, node.name) for node in grid.get_nodes() if node.status == "online")
        return {node: self._registered[name] for node, name in nodes if name in self._registered}

    def _introduce(self, node: int, owner: ClientId | None, reply: Message) -> None:
        """Takes note of a node's name, or of why it gave none."""
        try:
            client = _named(reply)
            if owner is not None and client != owner:
                raise RunError(f"its node calls itself {client!r}, and is registered as {owner!r}")
        except RunError as error:
            if owner is not None:
                self._faults[owner] = error
            return
        self._names[node] = client
        self._faults.pop(client, None)

    def _present(self) -> dict[ClientId, int]:
        return {self._names[node]: node for node in self._owners() if node in self._names}

    def _returns(self, client: ClientId) -> bool:
        """Whether the node of this client may be back in a moment."""
        return client not in self._faults and self._clock() < self._lost.get(client, -math.inf) + RETURN

    def _exchange(self, sent: Mapping[int, bytes], kind: str) -> Generator[tuple[int | None, Message | None]]:
        """(node, its reply) as replies come; the reply is None where the node has left, the node now and then too."""
        grid = self._connected()
        waiting = _push(grid, sent, kind)
        for node in sent.keys() - waiting.values():
            yield node, None
        replies = Pulling(grid, PULL)
        while waiting:
            yield from _pull(replies, waiting)
            yield None, None
            if waiting:
                time.sleep(PULL)

    def _answer(self, node: int, reply: Message | None) -> Answer:
        client = self._names[node]
        try:
            if reply is None:
                raise RunError("its node has left")
            return Answer(client, unpack(reply))
        except RunError as error:
            del self._names[node]  # one that was set up anew must be greeted again
            self._lost[client] = self._clock()
            return Answer(client, fault=str(error), error=error)

    def _connected(self) -> Grid:
        if self._grid is None:
            self._grid = self._opened.open()
        return self._grid


def _named(reply: Message) -> ClientId:
    """The name that a greeted node gives itself."""
    told = unpack(reply)
    try:
        if len(told) > REPLY_CAP:
            raise ValueError(f"{len(told)} bytes")
        return str(json.loads(told)["client"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"its node gives no name ({error}); run one version everywhere") from error


def _push(grid: Grid, sent: Mapping[int, bytes], kind: str) -> dict[str, int]:
    """The ids of the messages that were taken, with their nodes: one to a node that has left is not."""
    from flwr.app import Message

    messages = {node: Message(pack(payload), node, kind) for node, payload in sent.items()}
    taken = {found for found in grid.push_messages(list(messages.values())) if found}
    ids = {message.metadata.message_id: node for node, message in messages.items()}
    return {name: node for name, node in ids.items() if name in taken}


def _pull(replies: Pulling, waiting: dict[str, int]) -> Generator[tuple[int, Message]]:
    """(node, its reply) of those that have waited longest for a look, which then wait behind the others."""
    names = [*islice(waiting, LOOK)]
    for name in names:
        waiting[name] = waiting.pop(name)
    for reply in replies.look(names):
        node = waiting.pop(reply.metadata.reply_to_message_id, None)
        if node is not None:
            yield node, reply
