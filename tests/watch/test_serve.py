"""What the server of the page answers, and to whom."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import socket
from collections.abc import Iterator
from importlib.resources import files

import pytest

from fedbraid.errors import UserError
from fedbraid.watch.serve import Shared, serving
from fedbraid.watch.status import Watch

HOSTILE = '</script><script>alert("1")</script>'


@pytest.fixture
def port(folder) -> Iterator[int]:
    folder.ask([HOSTILE])
    folder.say("failed", client=HOSTILE, reason=HOSTILE)
    with serving(Shared(Watch(folder.path).look)) as address:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        yield int(address.split(":")[2].strip("/"))


def _ask(port: int, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def _raw(port: int, text: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(text.encode())
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_the_page_needs_nothing_and_its_policy_lets_nothing_else_in(port: int) -> None:
    code, headers, body = _ask(port)
    page = body.decode()
    assert code == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    for tag in ("style", "script"):
        [inline] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", page)
    assert not re.findall(r"""\son\w+\s*=|\sstyle\s*=""", page.partition("<script>")[0])


def test_every_answer_forbids_what_it_can(port: int) -> None:
    for path in ("/", "/status.json", "/nothing"):
        _, headers, _ = _ask(port, path)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "Access-Control-Allow-Origin" not in headers
        assert headers["Server"] == "fedbraid"


def test_the_status_is_json(port: int) -> None:
    code, headers, body = _ask(port, "/status.json")
    assert (code, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    status = json.loads(body)
    assert status["clients"][0]["id"] == HOSTILE
    assert status["clients"][0]["state"] == "failed"


def test_what_clients_say_never_enters_the_page_as_markup(port: int) -> None:
    assert HOSTILE.encode() not in _ask(port)[2]
    script = "".join(path.read_text() for path in files("fedbraid.watch").iterdir() if path.name.endswith(".js"))
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "DOMParser"):
        assert way not in script


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:9999", "127.0.0.1:1", "[::1]:8080"])
def test_loopback_names_are_answered_through_whatever_port(port: int, host: str) -> None:
    assert _ask(port, Host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.2", "0.0.0.0", ""),
        *("localhost:x", "localhost@evil.example", "evil.example:8080", "localhost, evil.example"),
    ],
)
@pytest.mark.parametrize("path", ["/", "/status.json"])
def test_other_names_are_not(port: int, path: str, host: str) -> None:
    code, _, body = _ask(port, path, Host=host)
    assert code == 421
    assert b"failed" not in body


def test_a_request_without_a_host_or_with_two_is_not_answered(port: int) -> None:
    assert b" 421 " in _raw(port, "GET /status.json HTTP/1.0\r\n\r\n")
    assert b" 421 " in _raw(port, "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")


@pytest.mark.parametrize(
    "path",
    [
        *("/status", "/status.json/", "/status.json?x", "/../config.toml", "/activity.jsonl", "/%2e%2e/config.toml"),
        *("//etc/passwd", "/favicon.ico", "http://localhost/", "*"),
    ],
)
def test_there_is_nothing_else(port: int, path: str) -> None:
    assert _ask(port, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE"])
def test_nothing_but_get_is_answered(port: int, method: str) -> None:
    for path in ("/", "/status.json", "/nothing"):
        code, headers, _ = _ask(port, path, method)
        assert (code, headers["Allow"]) == (405, "GET")


def test_nonsense_is_refused_plainly(port: int) -> None:
    for text in ("nonsense\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        answer = _raw(port, text)
        assert b"<" not in answer
        assert re.search(rb"(Bad Request|Not Implemented|Version Not Supported)\n$", answer)
    assert _raw(port, "GET /" + "a" * 70_000 + " HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.0 414")
    assert _ask(port)[0] == 200


def test_a_port_that_is_taken_is_an_error(port: int, folder) -> None:
    with pytest.raises(UserError, match="--port"), serving(Watch(folder.path).look, port):
        pass


def test_only_this_machine_is_served(port: int) -> None:
    for family, _, _, _, address in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET, socket.SOCK_STREAM):
        if not address[0].startswith("127."):
            with socket.socket(family, socket.SOCK_STREAM) as other:
                assert other.connect_ex(address) != 0


def test_many_who_ask_share_one_look() -> None:
    now, looks = [0.0], []
    shared = Shared(lambda: looks.append(1) or len(looks), fresh=0.5, clock=lambda: now[0])  # pyright: ignore
    assert [shared(), shared()] == [1, 1]
    now[0] = 0.6
    assert shared() == 2
