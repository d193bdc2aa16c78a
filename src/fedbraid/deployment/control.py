"""Flower's own commands, as programs: who is registered, which runs there are, start one, stop one.

`flwr run` tells little by its exit status, so what became of a run is always asked for by its number.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedbraid.deployment import program
from fedbraid.deployment.environment import surroundings
from fedbraid.deployment.federation import Federation
from fedbraid.deployment.keys import AUTHORITY
from fedbraid.errors import RunError
from fedbraid.naming import file_name

LINK = "federation"
PATIENCE = 120.0
"""Seconds that one of Flower's commands may take."""
ACTIVE = ("pending", "starting", "running")
GONE = "unregistered"


@dataclass(frozen=True)
class Node:
    """A registered node: its number, its name, whether it is online."""

    id: int
    name: str
    online: bool


class Control:
    """Commands to the server of a federation, on its own machine."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation

    def nodes(self) -> list[Node]:
        """The nodes that are registered now."""
        found = self._told("listing nodes", [sys.executable, "-m", "fedbraid.deployment.listing", LINK])["nodes"]
        return [Node(one["id"], one["name"], one["status"] == "online") for one in found if one["status"] != GONE]

    def register(self, site: str) -> None:
        """Lets the site's key in, under the site's name as a file would bear it."""
        self._ask("supernode", "register", str(self._federation.key(site)), LINK, f"--name={file_name(site)}")

    def unregister(self, node: int) -> None:
        """Lets the node in no more."""
        self._ask("supernode", "unregister", str(node), LINK)

    def start(self) -> int:
        """Begins a run of the federation's app, and gives its number."""
        return int(self._ask("run", str(self._federation.app), LINK)["run-id"])

    def stop(self, run: int) -> None:
        """Ends a run."""
        self._ask("stop", str(run), LINK)

    def run(self, number: int) -> tuple[str, str]:
        """What has become of a run: its status, and the details that Flower tells."""
        found = self._ask("ls", LINK, "--run-id", str(number))["runs"]
        if not found:
            return "unknown", "Flower does not know it"
        return str(found[0]["status"]), str(found[0].get("status-details", ""))

    def _ask(self, *command: str) -> Mapping[str, Any]:
        """What a command of Flower's tells."""
        return self._told(f"flwr {command[0]}", [*program.command("flwr"), *command, "--format", "json"])

    def _told(self, what: str, program: Sequence[str]) -> Mapping[str, Any]:
        """What a program tells; `RunError` where it fails or tells nothing."""
        self._connect()
        try:
            done = subprocess.run(
                program,
                env=surroundings(self._federation.home),
                cwd=self._federation.folder,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired as error:
            raise RunError(f"{what} did not answer within {PATIENCE:.0f} s") from error
        try:
            found = json.loads(done.stdout[done.stdout.index("{") :])
        except ValueError:
            told = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
            raise RunError(f"{what} failed: {told[-1]}") from None
        if not found.get("success", True):
            raise RunError(f"{what} failed: {found.get('error-message', found)}")
        return found

    def _connect(self) -> None:
        """Flower's note of where the server is. On its own machine that is always reached by the loopback address."""
        terms, folder = self._federation.terms, self._federation.folder
        trust = "insecure = true" if terms.insecure else f'root-certificates = "{folder / "certificates" / AUTHORITY}"'
        text = f'[superlink]\ndefault = "{LINK}"\n\n[superlink.{LINK}]\n'
        text += f'address = "127.0.0.1:{self._federation.port}"\n{trust}\n'
        path = self._federation.home / "config.toml"
        if not path.is_file() or path.read_text() != text:
            self._federation.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.write_text(text)
