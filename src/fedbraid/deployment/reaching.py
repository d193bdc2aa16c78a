"""The obstacle between a site and its server, in words.

Flower's node tries again for ever, and says the same whether nobody is there, TLS is off at one side, or a stranger
answers.
"""

from __future__ import annotations

import socket
import ssl

from fedbraid.deployment.federation import split_address
from fedbraid.deployment.site import SiteFolder

PATIENCE = 3.0
"""Seconds that connecting may take, and each answer."""
ASKED = b"GET /health HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n"


def obstacle(site: SiteFolder) -> str:
    """Why nothing can be sent to the server of this site, in words; empty where something can."""
    host, port = split_address(site.server)
    try:
        with socket.create_connection((host, port), timeout=PATIENCE) as line:
            return _without_tls(line) if site.terms.insecure else _with_tls(line, host, site)
    except OSError as error:
        return f"cannot be reached ({error.strerror or error})"


def _with_tls(line: socket.socket, host: str, site: SiteFolder) -> str:
    trust = ssl.create_default_context(cafile=str(site.authority))
    try:
        with trust.wrap_socket(line, server_hostname=host):
            return ""
    except ssl.SSLCertVerificationError as error:
        return f"shows a certificate that {site.authority.name} does not vouch for ({error.verify_message})"
    except ssl.SSLEOFError:
        return "hangs up while TLS is agreed upon"
    except ssl.SSLError:
        return "answers without TLS, which site.toml asks for (insecure = false)"


def _without_tls(line: socket.socket) -> str:
    told = b""
    try:
        line.sendall(ASKED)
        told = line.recv(5)
    except OSError:
        pass  # it has hung up, as servers with TLS do
    return "" if told == b"HTTP/" else "does not answer without TLS, as site.toml has it (insecure = true)"
