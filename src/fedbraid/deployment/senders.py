"""Every node answers in its own name. Flower compares the signature of a request with the node that sends it, and not
with the node whose answer is inside: so a registered node could answer for another whose numbers it knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fedbraid.deployment.inside_flower import senders

PUSH = "/v1/fleet/push-messages"
REFUSED = b"a node answers in its own name alone\n"
CAP = 64 * 2**20
"""The most bytes of such a request that are read. What an answer holds comes in requests of its own."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class OwnNameAlone:
    """Answers 403 to a node that sends an answer in another's name, and says so in the server's log."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PUSH:
            await self._app(scope, receive, send)
            return
        body, ended = await _whole(receive)
        if len(body) > CAP:
            await _refuse(send, 413, "a request that gives an answer has more bytes than are read")
            return
        own, named = senders(body)
        odd = sorted(named - {own})
        if odd:
            await _refuse(send, 403, f"node {own} answers in another's name, that of node {odd[0]}")
            return
        waiting = [{"type": "http.request", "body": body, "more_body": False}, *ended]

        async def again() -> MutableMapping[str, Any]:
            return waiting.pop(0) if waiting else await receive()

        await self._app(scope, again, send)


async def _whole(receive: Receive) -> tuple[bytes, list[MutableMapping[str, Any]]]:
    """The body of a request, as far as it is read; with the word that its sender has gone, if he has."""
    body = bytearray()
    while len(body) <= CAP:
        part = await receive()
        if part["type"] != "http.request":
            return bytes(body), [part]
        body += part.get("body", b"")
        if not part.get("more_body"):
            break
    return bytes(body), []


async def _refuse(send: Send, status: int, why: str) -> None:
    print(f"fedbraid: refused: {why}", flush=True)  # noqa: T201
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": REFUSED})
