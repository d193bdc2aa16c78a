"""Serves the page and the status of a run to this machine alone: GET / and GET /status.json, nothing else.

A page of another site could make a browser here ask this server under a name of its own (DNS rebinding), so a request
must name a loopback host. From elsewhere it is reached through ssh (see docs/watch.md).
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any

from fedbraid.errors import UserError
from fedbraid.watch.page import Page, page
from fedbraid.watch.picture import Status

HOST = "127.0.0.1"
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Shared:
    """One look for all who ask, at most every `fresh` seconds, one at a time."""

    def __init__(
        self, look: Callable[[], Status], *, fresh: float = 0.5, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._fresh = fresh
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: tuple[float, Status] | None = None

    def __call__(self) -> Status:
        with self._lock:
            if self._seen is None or self._clock() - self._seen[0] >= self._fresh:
                status = self._look()
                self._seen = self._clock(), status
            return self._seen[1]


@contextmanager
def serving(look: Callable[[], Status], port: int = 0) -> Iterator[str]:
    """Serves inside this context, and gives the address; port 0 is any free one.

    Raises `UserError` where the port cannot be had.
    """
    try:
        server = _Server((HOST, port), _Handler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot serve on port {port} of {HOST} ({reason}); choose another with --port") from error
    server.look, server.page = look, page()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    look: Callable[[], Status]
    page: Page

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is no news."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10
    """Seconds after which a connection that says nothing is closed."""

    def do_GET(self) -> None:
        if not self._local():
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", b"this server answers to loopback names alone\n")
        elif self.path == "/":
            self._answer(HTTPStatus.OK, "text/html", self.server.page.content, self.server.page.policy)
        elif self.path == "/status.json":
            content = json.dumps(self.server.look().data(), allow_nan=False).encode()
            self._answer(HTTPStatus.OK, "application/json", content)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there are / and /status.json\n")

    def _refuse(self) -> None:
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"GET alone\n")

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def _local(self) -> bool:
        """Whether the request names this machine, once."""
        names = self.headers.get_all("Host") or []
        return len(names) == 1 and _LOOPBACK.fullmatch(names[0].strip()) is not None

    def _answer(self, code: int, kind: str, content: bytes, policy: str = "default-src 'none'") -> None:
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", policy)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What the standard library refuses is answered as plainly as all else."""
        self._answer(code, "text/plain", f"{HTTPStatus(code).phrase}\n".encode())

    def version_string(self) -> str:
        return "fedbraid"

    def log_message(self, format: str, *args: object) -> None:
        """Requests are nobody's business: the terminal shows the run."""
