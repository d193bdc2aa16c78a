"""What runs on a host: a site's node and worker, or the federation's server."""

from __future__ import annotations

import os
import socket
import sys

from fedbraid.deployment.directing import Director
from fedbraid.deployment.environment import FEDERATION, SITE, surroundings
from fedbraid.deployment.federation import Federation
from fedbraid.deployment.keys import AUTHORITY, CERTIFICATE, KEY, write_private
from fedbraid.deployment.owning import owner_alone
from fedbraid.deployment.program import command
from fedbraid.deployment.reaching import obstacle
from fedbraid.deployment.site import SiteFolder
from fedbraid.deployment.supervising import Child, supervise
from fedbraid.errors import UserError
from fedbraid.naming import printable_lines

NOT_LET_IN = 2004
"""Flower's number for a node that cannot be activated."""
NO_LINE = (b"Connection attempt failed", b"Failed to initialize the connection")
"""Flower's words where nothing reaches the server, whatever the reason."""


@owner_alone()
def host_site(site: SiteFolder) -> None:
    """Takes part as this site until asked to end; `UserError` where the site does not say where its server is."""
    server = site.server
    secret = site.processes / "secret"
    write_private(secret, os.urandom(32).hex().encode())
    address = f"127.0.0.1:{free_port()}"
    environment = surroundings(site.home, **{SITE: str(site.folder)})

    def node() -> list[str]:
        trust = ["--insecure"]
        if not site.terms.insecure:
            trust = ["--root-certificates", str(site.authority), "--auth-supernode-private-key", str(site.key)]
        own = ["--isolation", "process", "--superexec-auth-secret-file", str(secret), "--port", address.split(":")[1]]
        return [*command("flower-supernode"), "--superlink", server, *trust, *own]

    def worker() -> list[str]:
        return [sys.executable, "-m", "fedbraid.deployment.worker", address, str(secret)]

    children = [
        Child("node", node, environment, site.logs / "node.log"),
        Child("worker", worker, environment, site.logs / "worker.log"),
    ]
    supervise("site", children, site.processes, each=_Refusals(site, children[0]).look)


class _Refusals:
    """Tells why a node is not let in or does not reach its server, which Flower tells among much else or not at all."""

    def __init__(self, site: SiteFolder, node: Child) -> None:
        self._site = site
        self._node = node
        self._starts = 1
        self._read = node.log.stat().st_size if node.log.is_file() else 0
        self._told = ""

    def look(self, _now: float) -> None:
        """Says so once for every start that followed a refusal, and once for every obstacle."""
        if not self._node.log.is_file():
            return
        if self._no_line():
            self._say_once(obstacle(self._site))
        if self._node.starts == self._starts:
            return
        self._starts = self._node.starts
        with self._node.log.open("rb") as log:
            log.seek(max(self._node.log.stat().st_size - 4000, 0))
            refused = f"code: {NOT_LET_IN}".encode() in log.read()
        if refused:
            _say(
                f"{self._site.server} does not let {self._site.terms.client} in: its key is not registered (see "
                "'deploy status' there), or it was killed less than a minute ago; trying again"
            )

    def _no_line(self) -> bool:
        """Whether the node has failed to reach the server since the last look."""
        size = self._node.log.stat().st_size
        begin = self._read if self._read <= size else 0  # a log that was put aside begins anew
        self._read = size
        if begin == size:
            return False
        with self._node.log.open("rb") as log:
            log.seek(begin)
            new = log.read(size - begin)
        return any(words in new for words in NO_LINE)

    def _say_once(self, why: str) -> None:
        if why and why != self._told:
            _say(f"{self._site.server} {why}; trying again")
        self._told = why


def _say(told: str) -> None:
    print(printable_lines(f"fedbraid: {told}"), flush=True)  # noqa: T201


@owner_alone()
def host_server(federation: Federation) -> None:
    """Serves the federation until asked to end: nodes come and go, and its run goes on."""
    check_port(federation)
    environment = surroundings(federation.home, **{FEDERATION: str(federation.folder)})
    host = federation.host
    bound = "127.0.0.1" if host in ("127.0.0.1", "localhost") else "0.0.0.0"

    def link() -> list[str]:
        trust = ["--insecure"]
        if not federation.terms.insecure:
            folder = federation.certificates
            trust = ["--ssl-ca-certfile", str(folder / AUTHORITY), "--ssl-certfile", str(folder / CERTIFICATE)]
            trust += ["--ssl-keyfile", str(folder / KEY), "--enable-supernode-auth"]
        own = ["--host", bound, "--port", str(federation.port), "--database", str(federation.database)]
        more = ["--disable-runtime-dependency-installation"]
        return [sys.executable, "-m", "fedbraid.deployment.link", *own, *trust, *more]

    children = [Child("link", link, environment, federation.logs / "link.log")]
    supervise("server", children, federation.processes, each=Director(federation).step)


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check_port(federation: Federation) -> None:
    """`UserError` where the federation's port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", federation.port))
        except OSError as error:
            raise UserError(
                f"port {federation.port} cannot be used ({error.strerror}); end what uses it, or begin a federation at "
                "another address"
            ) from error
