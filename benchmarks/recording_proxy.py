"""A proxy that stands between a site and its server, ends TLS at both sides, and keeps every byte in the clear.

It shows the federation's own certificate, whose key it was given, so that a site takes it for the server: nobody on a
network can do so. Requests pass one by one; what is `changing` may put others in their place, or answer itself.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

Stream = socket.socket
PATIENCE = 60.0


@dataclass(frozen=True)
class Part:
    """A request or a response: its first line and headers as they came, and its body without the marks of chunks."""

    head: bytes
    body: bytes
    size: int
    """Bytes as they came, marks of chunks too."""

    @property
    def first(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}

    @property
    def path(self) -> str:
        return self.first.split(" ")[1]

    @property
    def status(self) -> int:
        return int(self.first.split(" ")[1])

    def holding(self, body: bytes, *, path: str = "", headers: Mapping[str, str] | None = None) -> Part:
        """The same with another body, to another path, with some headers replaced."""
        first, *lines = [line for line in self.head.split(b"\r\n") if line]
        replaced = {b"content-length", b"transfer-encoding", *(name.encode() for name in headers or {})}
        lines = [line for line in lines if line.split(b":")[0].lower() not in replaced]
        lines += [f"{name}: {value}".encode() for name, value in (headers or {}).items()]
        lines.insert(0, b"POST %s HTTP/1.1" % path.encode() if path else first)
        head = b"\r\n".join([*lines, b"content-length: %d" % len(body), b"", b""])
        return Part(head, body, len(head) + len(body))

    def bytes(self) -> bytes:
        return self.head + self.body


@dataclass(frozen=True)
class Exchange:
    """A request as the site sent it, and the response that the site got."""

    site: str
    up: Part
    down: Part


Send = Callable[[Part], Part]
"""Sends a request to the server and gives its response."""
Change = Callable[[str, Part, Send], Part]
"""Answers a request of a site, by whatever it sends."""


def unchanged(_site: str, request: Part, send: Send) -> Part:
    return send(request)


@dataclass
class Recorder:
    """What has passed, and how it is answered."""

    change: Change = unchanged
    exchanges: list[Exchange] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, exchange: Exchange) -> None:
        with self.lock:
            self.exchanges.append(exchange)


def trusting(authority: Path) -> ssl.SSLContext:
    """A client that trusts this authority alone."""
    context = ssl.create_default_context(cafile=str(authority))
    context.check_hostname = False  # the certificate is of the address that sites are told
    return context


@contextmanager
def standing_between(
    sites: Sequence[str],
    server: tuple[str, int],
    recorder: Recorder,
    *,
    certificate: Path,
    key: Path,
    authority: Path,
) -> Iterator[Mapping[str, int]]:
    """A port of this machine for every site, behind which everything is recorded."""
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown.load_cert_chain(certificate, key)
    with ExitStack() as stack:
        ports: dict[str, int] = {}
        for site in sites:
            door = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            ports[site] = door.getsockname()[1]
            connect = _Connecting(server, trusting(authority))
            arguments = (door, shown, site, connect, recorder)
            threading.Thread(target=_listen, args=arguments, daemon=True).start()
        yield ports


@dataclass(frozen=True)
class _Connecting:
    server: tuple[str, int]
    trust: ssl.SSLContext

    def __call__(self) -> Stream:
        plain = socket.create_connection(self.server, timeout=PATIENCE)
        return self.trust.wrap_socket(plain, server_hostname=self.server[0])


def _listen(door: socket.socket, shown: ssl.SSLContext, site: str, connect: _Connecting, recorder: Recorder) -> None:
    while True:
        try:
            plain, _ = door.accept()
        except OSError:
            return  # the door was closed
        threading.Thread(target=_serve, args=(plain, shown, site, connect, recorder), daemon=True).start()


def _serve(plain: Stream, shown: ssl.SSLContext, site: str, connect: _Connecting, recorder: Recorder) -> None:
    """One connection of a site, until either side ends it or breaks off."""
    with suppress(OSError, EOFError), plain, shown.wrap_socket(plain, server_side=True) as here, connect() as there:
        from_site, from_server = here.makefile("rb"), there.makefile("rb")

        def send(request: Part) -> Part:
            there.sendall(request.bytes())
            return read_part(from_server)

        while True:
            request = read_part(from_site)
            response = recorder.change(site, request, send)
            recorder.add(Exchange(site, request, response))
            here.sendall(response.bytes())


def read_part(source) -> Part:
    """The next request or response; `EOFError` where there is none. Chunks are put together."""
    lines = []
    while (line := source.readline()) != b"\r\n":
        if not line:
            raise EOFError
        lines.append(line)
    head = b"".join(lines) + b"\r\n"
    part = Part(head, b"", len(head))
    if part.headers.get("transfer-encoding", "").lower() != "chunked":
        body = source.read(int(part.headers.get("content-length", "0")))
        return Part(head, body, len(head) + len(body))
    body, marks = bytearray(), 0
    while True:
        mark = source.readline()
        size = int(mark, 16)
        body += source.read(size)
        marks += len(mark) + len(source.readline())
        if not size:
            whole = part.holding(bytes(body))
            return Part(whole.head, whole.body, len(head) + len(body) + marks)


def ask(server: tuple[str, int], request: Part, trust: ssl.SSLContext | None) -> Part:
    """The response to a request of one's own; without `trust` it is sent without TLS."""
    with ExitStack() as stack:
        plain = stack.enter_context(socket.create_connection(server, timeout=PATIENCE))
        line = stack.enter_context(trust.wrap_socket(plain, server_hostname=server[0])) if trust else plain
        line.sendall(request.bytes())
        return read_part(line.makefile("rb"))


def post(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Part:
    """A request with a body in Flower's format."""
    form = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/protobuf\r\n\r\n"
    return Part(form, b"", 0).holding(body, path=path, headers=headers)
