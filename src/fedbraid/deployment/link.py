"""Flower's server with its back door closed: run as `python -m fedbraid.deployment.link`, with the options of
`flower-superlink`.

One port serves the nodes (who prove themselves by their keys), the commands that start and stop runs, and the server's
own app. The last two ask nobody who he is, and a run is code that the server executes. So they are for this machine
alone; from elsewhere the port answers nodes and nothing else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable

from fedbraid.deployment.inside_flower import start_apps_by, wrap_server
from fedbraid.deployment.program import run
from fedbraid.deployment.senders import OwnNameAlone, Receive, Scope, Send
from fedbraid.deployment.starting import started_here

OPEN = ("/v1/fleet/", "/health")
"""What others than this machine may ask for."""


class NodesAlone:
    """Answers 403 to whoever asks from another machine for more than nodes need."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or _is_open(scope["path"]) or _is_here(scope.get("client")):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"this is answered on the server's own machine alone\n"})
        else:
            await send({"type": "websocket.close", "code": 1008})


def _is_open(path: str) -> bool:
    return path == OPEN[1] or (path.startswith(OPEN[0]) and ".." not in path)


def _is_here(client: tuple[str, int] | None) -> bool:
    try:
        address = ipaddress.ip_address(client[0] if client else "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def main() -> None:
    """Flower's own program, its application wrapped, and its app started so that nobody reads the token."""
    wrap_server(NodesAlone, OwnNameAlone)
    start_apps_by(started_here)
    run("flower-superlink")


if __name__ == "__main__":
    main()
