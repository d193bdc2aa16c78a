"""Every node answers in its own name. Flower compares the signature of a request with the node that sends it, and not
with the node whose answer is inside: so a registered node could answer for another whose numbers it knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fedbraid.deployment.link import Receive, Scope, Send

PUSH = "/v1/fleet/push-messages"
REFUSED = b"a node answers in its own name alone\n"


class OwnNameAlone:
    """Answers 403 to a node that sends an answer in another's name, and says so in the server's log."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PUSH:
            await self._app(scope, receive, send)
            return
        body, ended = await _whole(receive)
        odd = _in_anothers_name(body)
        if odd is not None:
            print(f"fedbraid: refused: node {odd[0]} answers in another's name, that of node {odd[1]}", flush=True)  # noqa: T201
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": REFUSED})
            return
        waiting = [{"type": "http.request", "body": body, "more_body": False}, *ended]

        async def again() -> MutableMapping[str, Any]:
            return waiting.pop(0) if waiting else await receive()

        await self._app(scope, again, send)


async def _whole(receive: Receive) -> tuple[bytes, list[MutableMapping[str, Any]]]:
    """The body of a request; with the word that its sender has gone, if he has."""
    body = bytearray()
    while True:
        part = await receive()
        if part["type"] != "http.request":
            return bytes(body), [part]
        body += part.get("body", b"")
        if not part.get("more_body"):
            return bytes(body), []


def _in_anothers_name(body: bytes) -> tuple[int, int] | None:
    """(who sends, in whose name) where these differ; None for a body that is none, which Flower refuses."""
    from flwr.proto.fleet_pb2 import PushMessagesRequest
    from google.protobuf.message import DecodeError

    try:
        told = PushMessagesRequest.FromString(body)
    except DecodeError:
        return None
    own = told.node.node_id
    named = (message.metadata.src_node_id for message in told.messages_list)
    return next(((own, other) for other in named if other != own), None)
