"""Attacks on the line between sites and server, by somebody who holds the server's own key and by a registered site.

Each happens once, in the course of a run, and what the server says to it is kept. The run must end as if nothing had
happened.
"""

from __future__ import annotations

import datetime
import hashlib
import threading
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from flwr.proto import fleet_pb2, message_pb2
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from recording_proxy import Exchange, Part, Send
from wire_contents import FLEET

PUSH, OBJECT = f"{FLEET}push-messages", f"{FLEET}push-object"


@dataclass(frozen=True)
class Answer:
    """An answer of a site as Flower cuts it: the tree of its parts below the message, and these by their hashes."""

    tree: Any
    parts: Mapping[str, bytes]


def answers(exchanges: Sequence[Exchange], site: str) -> list[Answer]:
    """What a site has answered to questions of rounds."""
    parts: dict[str, bytes] = {}
    trees: list[Any] = []
    for exchange in exchanges:
        if exchange.site == site and exchange.up.path == OBJECT:
            pushed = message_pb2.PushObjectRequest.FromString(exchange.up.body)
            parts[pushed.object_id] = pushed.object_content
        if exchange.site == site and is_work(exchange.up):
            told = fleet_pb2.PushMessagesRequest.FromString(exchange.up.body)
            trees.append(told.message_object_trees[0].children[0])
    return [Answer(tree, parts) for tree in trees]


def is_work(request: Part) -> bool:
    """Whether a site pushes the answer to a question of a round."""
    if request.path != PUSH:
        return False
    found = fleet_pb2.PushMessagesRequest.FromString(request.body).messages_list
    return bool(found) and found[0].metadata.message_type == "train"


def forged(request: Part, answer: Answer, *, node: int | None = None) -> tuple[Any, Mapping[str, bytes]]:
    """(announcement, parts) of this answer in the place of the one that a request announces, its hashes made anew.

    `node` is who sends it, where that is not whose answer it says to be.
    """
    told = fleet_pb2.PushMessagesRequest.FromString(request.body)
    metadata = told.messages_list[0].metadata
    metadata.message_id = ""
    body = message_pb2.Message(metadata=metadata).SerializeToString(deterministic=True)
    whole = f"Message {answer.tree.object_id} {len(body)}".encode() + b"\0" + body
    metadata.message_id = hashlib.sha256(whole).hexdigest()
    tree = message_pb2.ObjectTree(object_id=metadata.message_id, children=[answer.tree])
    told.message_object_trees[0].CopyFrom(tree)
    if node is not None:
        told.node.node_id = node
    return told, {**answer.parts, metadata.message_id: whole}


def push(request: Part, made: Any, parts: Mapping[str, bytes], send: Send, headers: Mapping[str, str]) -> Part:
    """Announces an answer and sends all its parts that the server asks for; what the server says to the first."""
    response = send(request.holding(made.SerializeToString(), headers=headers))
    if response.status != 200:
        return response
    said = fleet_pb2.PushMessagesResponse.FromString(response.body)
    for name in said.objects_to_push:
        part = message_pb2.PushObjectRequest(
            node=made.node,
            run_id=made.messages_list[0].metadata.run_id,
            object_id=name,
            object_content=parts[name],
            session_id=said.session_id,
        )
        send(request.holding(part.SerializeToString(), path=OBJECT, headers=headers))
    return response


def _run(request: Part) -> int:
    """The Flower run of an announced answer."""
    return fleet_pb2.PushMessagesRequest.FromString(request.body).messages_list[0].metadata.run_id


def taken(response: Part) -> bool:
    """Whether the server took an announced answer, and asks for its parts."""
    return response.status == 200 and bool(fleet_pb2.PushMessagesResponse.FromString(response.body).objects_to_push)


def signed(key: Path, *, ago: float = 0.0) -> dict[str, str]:
    """The headers by which the node of a key proves itself, so many seconds ago."""
    private: Any = serialization.load_ssh_private_key(key.read_bytes(), None)
    when = (datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=ago)).isoformat()
    return {
        "flwr-public-key": b64encode(public_key_to_bytes(private.public_key())).decode(),
        "flwr-timestamp": when,
        "flwr-signature": b64encode(sign_message(private, when.encode())).decode(),
    }


@dataclass
class Attacker:
    """Answers for the proxy once it is `armed`; every attack waits for its moment and happens once.

    `earlier` is an answer of `victim` to an earlier question. `insider` is another registered site, with its key and
    the number of its node.
    """

    victim: str
    insider: str
    key: Path
    node: int
    earlier: Answer
    done: dict[str, Part] = field(default_factory=dict)
    _pushed: list[Part] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def change(self, site: str, request: Part, send: Send) -> Part:
        if site != self.victim:
            return send(request)
        with self._lock:
            if is_work(request):
                return self._work(request, send)
            if request.path == OBJECT and self._pushed and "changed" not in self.done:
                return self._changed(request, send)
            return send(request)

    def _work(self, request: Part, send: Send) -> Part:
        """The site's answer, after or instead of what the attacker sends."""
        if "substituted" not in self.done:
            response = push(request, *forged(request, self.earlier), send, {})
            self.done["substituted"] = response
            told = fleet_pb2.PushMessagesResponse.FromString(response.body)
            del told.objects_to_push[:]  # the site need not know
            return response.holding(told.SerializeToString())
        if self._pushed:
            before = self._pushed[-1]
            name = "replayed" if _run(before) == _run(request) else "replayed over runs"
            self._once(name, lambda: send(before))
            made, parts = forged(request, self.earlier, node=self.node)
            self._once("in another's name", lambda: push(request, made, parts, send, signed(self.key)))
        self._pushed.append(request)
        return send(request)

    def _changed(self, request: Part, send: Send) -> Part:
        """One bit of a part flipped, the hash of it as it was."""
        told = message_pb2.PushObjectRequest.FromString(request.body)
        content = bytearray(told.object_content)
        content[-1] ^= 1
        told.object_content = bytes(content)
        response = self.done["changed"] = send(request.holding(told.SerializeToString()))
        return response

    def _once(self, name: str, attack: Callable[[], Part]) -> None:
        if name not in self.done:
            self.done[name] = attack()
