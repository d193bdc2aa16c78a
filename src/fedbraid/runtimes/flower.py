"""Parties behind Flower: questions and answers as bytes inside messages over a `Grid`, and nothing else of Flower.

Deadlines, quorum, sampling, checks and sums are the server's (see `server`); Flower carries. A message holds one array
of bytes. Replies are told apart by the message that they reply to, since an error reply about a dead node does not come
from that node. Clients are named by what their node said when it was greeted, once a node.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from fedbraid.algebra import Tensors
from fedbraid.core import EVALUATE, ClientId, Round
from fedbraid.errors import RunError
from fedbraid.runtimes.exchange import Answer, Transport

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp import Grid

QUESTION, GREETING = "train", "query"
"""Flower's names for the two kinds of message."""
PULL = 0.05
"""Seconds between two looks for replies."""
GREETED = 10.0
"""Seconds to wait for the names of new nodes."""


class Opened(Protocol):
    """What opens a grid when the first message is sent, and closes it."""

    def open(self) -> Grid: ...
    def close(self) -> None: ...


class OverGrid:
    """A transport over the nodes of a grid. Evaluations are answered by `here`, which holds the test samples.

    `clients` are those expected; one whose node is not there when it is asked has failed.
    """

    def __init__(
        self,
        opened: Opened,
        clients: Sequence[ClientId],
        here: Transport,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clients: Sequence[ClientId] = sorted(clients)
        self.evaluators: Sequence[ClientId] = here.evaluators
        self._opened = opened
        self._here = here
        self._clock = clock
        self._grid: Grid | None = None
        self._names: dict[int, ClientId] = {}

    def ask(self, questions: Mapping[ClientId, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        """Answers in the order in which they come; at once a fault for a client without a node."""
        if round.phase == EVALUATE:
            yield from self._here.ask(questions, received, round)
            return
        nodes = {client: node for client, node in self._greeted().items() if client in questions}
        for client in sorted(questions.keys() - nodes.keys()):
            yield Answer(client, fault="its node is not connected")
        sent = {nodes[client]: questions[client] for client in sorted(nodes)}
        for node, reply in self._exchange(sent, QUESTION):
            yield None if node is None else self._answer(self._names[node], reply)

    def kept(self) -> Tensors:
        """Nothing: parties keep what is theirs at their nodes."""
        return {}

    def keep(self, client: ClientId, kept: Tensors) -> None:
        """Nothing is given back, as nothing was taken."""

    def close(self) -> None:
        """Ends what the grid stands on."""
        if self._grid is not None:
            self._opened.close()
            self._grid = None

    def connect(self, within: float = 300.0) -> None:
        """Waits until all clients have a node: that is no round's time. `RunError` where some have none."""
        until = self._clock() + within
        while missing := sorted(set(self.clients) - self._greeted().keys()):
            if self._clock() >= until:
                raise RunError(f"no node came for clients {', '.join(missing)} within {within:.0f} s")
            time.sleep(PULL)

    def _greeted(self) -> dict[ClientId, int]:
        """The clients whose nodes are there; nodes that are new are asked for their name."""
        here = sorted(self._connected().get_node_ids())
        unknown = {node: b"" for node in here if node not in self._names}
        for node, reply in self._exchange(unknown, GREETING, within=GREETED) if unknown else ():
            if node is not None and reply is not None and reply.has_content():
                self._names[node] = json.loads(unpack(reply))["client"]
        return {self._names[node]: node for node in here if node in self._names}

    def _exchange(
        self, sent: Mapping[int, bytes], kind: str, within: float | None = None
    ) -> Generator[tuple[int | None, Message | None]]:
        """(node, its reply) as replies come; the reply is None where the node has left, the node now and then too."""
        grid = self._connected()
        waiting = _push(grid, sent, kind)
        for node in sent.keys() - waiting.values():
            yield node, None
        until = None if within is None else self._clock() + within
        while waiting and (until is None or self._clock() < until):
            for reply in grid.pull_messages(list(waiting)):
                node = waiting.pop(reply.metadata.reply_to_message_id, None)
                if node is not None:
                    yield node, reply
            yield None, None
            if waiting:
                time.sleep(PULL)

    def _answer(self, client: ClientId, reply: Message | None) -> Answer:
        if reply is None:
            return Answer(client, fault="its node has left")
        if reply.has_error():
            told = str(reply.error.reason).strip().splitlines() or [""]
            return Answer(client, fault=f"its node failed (code {reply.error.code}): {told[-1][:300]}")
        try:
            return Answer(client, unpack(reply))
        except RunError as error:
            return Answer(client, fault=str(error))

    def _connected(self) -> Grid:
        if self._grid is None:
            self._grid = self._opened.open()
        return self._grid


def pack(payload: bytes):
    """The content of a message."""
    from flwr.app import Array, ArrayRecord, RecordDict

    return RecordDict({"fedbraid": ArrayRecord({"message": Array("uint8", (len(payload),), "bytes", payload)})})


def pack_fault(reason: str):
    """The content of a message that tells why there is no answer.

    An error that leaves a client app would spoil its process in a simulation, and stall its node in a deployment.
    """
    from flwr.app import ConfigRecord, RecordDict

    return RecordDict({"fault": ConfigRecord({"reason": reason})})


def unpack(message: Message) -> bytes:
    """The bytes of a message; `RunError` where it is none of ours, or tells of a fault."""
    from flwr.app import ArrayRecord, ConfigRecord

    told = message.content.get("fault")
    if isinstance(told, ConfigRecord):
        raise RunError(str(told.get("reason", ""))[:1000])
    record = message.content.get("fedbraid")
    array = record.get("message") if isinstance(record, ArrayRecord) else None
    if array is None:
        raise RunError("its reply holds no message of this library; run one version everywhere")
    return array.data


def _push(grid: Grid, sent: Mapping[int, bytes], kind: str) -> dict[str, int]:
    """The ids of the messages that were taken, with their nodes: one to a node that has left is not."""
    from flwr.app import Message

    messages = {node: Message(pack(payload), node, kind) for node, payload in sent.items()}
    taken = {found for found in grid.push_messages(list(messages.values())) if found}
    ids = {message.metadata.message_id: node for node, message in messages.items()}
    return {name: node for name, node in ids.items() if name in taken}
