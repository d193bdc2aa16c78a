"""Why a site does not reach its server, in words."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")

from fedbraid.deployment.hosting import _Refusals, free_port
from fedbraid.deployment.keys import make_certificates
from fedbraid.deployment.reaching import obstacle
from fedbraid.deployment.site import SiteFolder, SiteTerms
from fedbraid.deployment.supervising import Child


@contextmanager
def server(certificates: Path | None = None) -> Iterator[int]:
    """A server that answers every request in the same way, with TLS where it has certificates; its port."""
    trust = None
    if certificates:
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trust.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=_answer, args=(door, trust), daemon=True).start()
        yield door.getsockname()[1]


def _answer(door: socket.socket, trust: ssl.SSLContext | None) -> None:
    while True:
        try:
            plain, _ = door.accept()
            with plain, trust.wrap_socket(plain, server_side=True) if trust else plain as line:
                line.recv(1000)
                line.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        except ssl.SSLError:
            continue
        except OSError:
            return


def site(folder: Path, port: int, *, insecure: bool = False) -> SiteFolder:
    return SiteFolder(folder, SiteTerms(client="north", server=f"127.0.0.1:{port}", insecure=insecure))


def test_every_obstacle_has_a_name(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own, other):
        make_certificates(folder, ["127.0.0.1"])
    with server(own) as port:
        assert not obstacle(site(own, port))
        assert "shows a certificate that ca.crt does not vouch for" in obstacle(site(other, port))
        assert "does not answer without TLS" in obstacle(site(own, port, insecure=True))
    with server() as port:
        assert not obstacle(site(own, port, insecure=True))
        assert "answers without TLS" in obstacle(site(own, port))
    assert "cannot be reached" in obstacle(site(own, free_port()))


def test_a_site_says_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "node.log"
    refusals = _Refusals(site(tmp_path, free_port(), insecure=True), Child("node", list, {}, log, starts=1))
    refusals.look(0.0)
    for _ in range(3):
        with log.open("a") as words:
            words.write("Connection attempt failed, retrying in 0.1 seconds\n")
        refusals.look(0.0)
    refusals.look(0.0)
    assert capsys.readouterr().out.count("cannot be reached") == 1
