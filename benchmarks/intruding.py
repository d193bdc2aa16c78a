"""Those whom a federation does not let in: sites with the wrong key, line or authority, and callers without any."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from federations import PATIENCE
from recording_proxy import ask, post, trusting
from wire_attacks import signed

from fedbraid.deployment.keys import make_node_key

ELSEWHERE = (
    "/v1/control/start-run",
    "/v1/control/list-nodes",
    "/v1/control/register-node",
    "/v1/runtime/acquire-task",
    "/v1/fleet/../control/list-nodes",
    "/docs",
    "/openapi.json",
)
"""What is for the server's own machine alone."""


@dataclass(frozen=True)
class Finding:
    """An attack, whether it was refused by name, and what its victim can read about it."""

    attack: str
    refused: bool
    words: str


def copied(site: Path, folder: Path, changes: Mapping[str, str], *, drop: Sequence[str] = ()) -> Path:
    """The folder of a site, with other words in its `site.toml`."""
    shutil.copytree(site, folder, ignore=shutil.ignore_patterns("flwr", "logs", "processes", "holdings", *drop))
    text = (folder / "site.toml").read_text()
    for before, after in changes.items():
        assert before in text, f"site.toml has no {before!r}"
        text = text.replace(before, after)
    (folder / "site.toml").write_text(text)
    folder.chmod(0o700)
    return folder


def with_new_key(site: Path, folder: Path) -> Path:
    """The same site with a key that nobody has registered."""
    made = copied(site, folder, {}, drop=("node.key",))
    make_node_key(made / "node.key", folder.with_suffix(".pub"))
    return made


def refused(attack: str, site: Path, words: str, printed: list[bytes]) -> Finding:
    """Starts a site until it prints these words, which whoever runs it sees, then ends it."""
    with started("site", site) as (process, output):
        until = time.monotonic() + PATIENCE / 10
        while process.poll() is None and time.monotonic() < until:
            if _said(words, output.read_text()):
                break
            time.sleep(0.2)
    printed.append(output.read_bytes())
    said = _said(words, output.read_text())
    return Finding(attack, bool(said), said or _last(output, site / "logs" / "node.log"))


@contextmanager
def started(what: str, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`deploy site` or `deploy server` in the foreground, and the file with what it prints."""
    output = folder.with_name(f"{folder.name}.printed")
    with output.open("wb") as words:
        command = [sys.executable, "-m", "fedbraid", "deploy", what, str(folder)]
        process = subprocess.Popen(command, stdout=words, stderr=words)
    try:
        yield process, output
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)


def knocks(server: tuple[str, int], authority: Path, stranger: Path, node: Path) -> Iterator[Finding]:
    """Requests of callers who are no nodes: without a key, with a strange one, with a node's signature of long ago."""
    trust = trusting(authority)
    pull = "/v1/fleet/pull-messages"
    for attack, headers in (
        ("a caller without a key", {}),
        ("a caller with a key that is not registered", signed(stranger)),
        ("a node's signed request, captured 400 s ago", signed(node, ago=400)),
    ):
        response = ask(server, post(pull, b"", headers), trust)
        yield Finding(attack, response.status == 401, f"{response.status} {response.body.decode()[:80]}")
    if server[0].startswith("127."):
        yield Finding("a command from elsewhere", True, "not shown: this machine has no address but its own loopback")
        return
    responses = [ask(server, post(path, b""), trust) for path in ELSEWHERE]
    statuses = sorted({response.status for response in responses})
    attack = f"commands from elsewhere ({len(ELSEWHERE)} paths)"
    yield Finding(attack, statuses == [403], f"{statuses} {responses[0].body.decode().strip()}")


def own_address() -> str:
    """An address of this machine that is not its loopback, as seen by whoever calls it; else the loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # nothing is sent
        return probe.getsockname()[0]
    return "127.0.0.1"


def _said(words: str, text: str) -> str:
    """The first line with these words."""
    return next((line for line in text.splitlines() if re.search(words, line)), "")


def _last(*paths: Path) -> str:
    lines = [line for path in paths if path.is_file() for line in path.read_text().splitlines() if line.strip()]
    return f"NOT NAMED; last: {lines[-1][:200]}" if lines else "NOT NAMED"
