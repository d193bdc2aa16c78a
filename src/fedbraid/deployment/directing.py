"""What the server's supervisor sees to beside processes: that sites are registered, and that the wanted run goes on.

A Flower run ends with the process that serves it. While a run is wanted and not finished a new one is begun, which goes
on from the checkpoint; later and later while they fail. One that the operator's settings make impossible is not tried
again until he says so.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

from fedbraid.deployment.control import ACTIVE, Control
from fedbraid.deployment.federation import FILE, Federation, read
from fedbraid.deployment.notes import BROKEN, FINISHED, REFUSED, Wanted, end_with, ended, want, wanted, write_note
from fedbraid.deployment.supervising import running
from fedbraid.errors import RunError, UserError
from fedbraid.naming import file_name, printable_lines

LOOK, LONGEST = 3.0, 60.0
"""Seconds between two looks, and the most between two attempts."""
ALIKE = 3
"""So many attempts that end with the same word and no round are enough, where waiting does not help."""
CALM = 30.0
"""Seconds between two questions to Flower while the run's process lives: one takes half a second of a processor."""


class Director:
    """Looks every few seconds, in a thread of its own: Flower's commands take seconds each."""

    def __init__(self, federation: Federation) -> None:
        self._folder = federation.folder
        self._due = 0.0
        self._calm = 0.0
        self._pause = LOOK
        self._waiting = False
        self._done: str | None = None
        self._alike = 0
        self._seen: float | None = None
        self._registered: float | None = None
        self._looking: threading.Thread | None = None

    def step(self, now: float) -> None:
        """Begins a look where one is due and none is going on."""
        if now < self._due or (self._looking and self._looking.is_alive()):
            return
        self._due = now + LOOK
        self._looking = threading.Thread(target=self._look, name="director", daemon=True)
        self._looking.start()

    def _look(self) -> None:
        try:
            federation = read(self._folder)
            if not answers(federation.port):
                return
            control = Control(federation)
            self._register(federation, control)
            if self._seen is None or _asked_after(federation, self._seen):
                self._note(federation, control)
            self._go_on(federation, control)
        except (RunError, UserError) as error:
            self._wait(str(error))

    def _register(self, federation: Federation, control: Control) -> None:
        """Lets in who is in the terms, and nobody else; looked at when the terms have changed."""
        changed = (federation.folder / FILE).stat().st_mtime
        if federation.terms.insecure or changed == self._registered:
            return
        known = {node.name: node for node in control.nodes()}
        for name in sorted(known.keys() - set(map(file_name, federation.terms.sites))):
            control.unregister(known[name].id)
        for name in federation.terms.sites:
            if file_name(name) not in known:
                control.register(name)
        self._registered, self._seen = changed, None

    def _note(self, federation: Federation, control: Control) -> None:
        """Writes down who is there, for `deploy status`: asking Flower takes seconds, reading a file does not."""
        self._seen = time.time()
        run = wanted(federation.folder).flower_run
        status = None if run is None else control.run(run)[0]
        online = {node.name: node.online for node in control.nodes()}
        federation.seen.parent.mkdir(parents=True, exist_ok=True)
        write_note(federation.seen, {"at": self._seen, "online": online, "run": run, "status": status})

    def _go_on(self, federation: Federation, control: Control) -> None:
        now = wanted(federation.folder)
        if not now.go_on:
            return
        if now.flower_run is not None:
            if time.monotonic() < self._calm and running(federation.computing):
                return
            self._calm = time.monotonic() + CALM
            status, details = control.run(now.flower_run)
            if status in ACTIVE:
                return
            last = ended(federation.folder)
            if last.get("outcome") in (FINISHED, REFUSED):
                want(federation.folder, Wanted(False, now.flower_run))
                return
            if not self._waiting:
                self._wait(last.get("reason") or details, progress=_progress(federation))
                if last.get("again") == "no" and self._alike >= ALIKE:
                    self._give_up(federation, now, last)
                return
        self._waiting = False
        (federation.folder / "outcome.json").unlink(missing_ok=True)
        want(federation.folder, Wanted(True, control.start()))
        self._seen = None

    def _give_up(self, federation: Federation, now: Wanted, last: Mapping[str, str]) -> None:
        """The run is not begun again by itself: it has ended in the same way each time, and will again."""
        why = f"{last.get('reason', '')}; given up after {ALIKE} attempts that ended alike: mend it, then 'deploy run'"
        end_with(federation.folder, last.get("outcome", BROKEN), why, again=False)
        want(federation.folder, Wanted(False, now.flower_run))
        self._waiting, self._alike = False, 0
        print(f"fedbraid: {why}", flush=True)  # noqa: T201

    def _wait(self, why: str, progress: str = "") -> None:
        """The next attempt comes later, unless rounds were finished since the last."""
        self._alike = self._alike + 1 if progress == self._done else 1
        self._pause = LOOK if progress != self._done else min(2 * self._pause, LONGEST)
        self._due = time.monotonic() + self._pause
        self._waiting, self._done = True, progress
        print(printable_lines(f"fedbraid: {why}; trying again in {self._pause:.0f} s"), flush=True)  # noqa: T201


def _asked_after(federation: Federation, seen: float) -> bool:
    """Whether somebody has looked at what was written down then, a while ago."""
    with suppress(OSError):
        return time.time() > seen + CALM and federation.asked.stat().st_mtime > seen
    return False


def answers(port: int) -> bool:
    """Whether anything listens at a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _progress(federation: Federation) -> str:
    """The newest state of the run."""
    return max((path.name for path in (federation.run / "state").glob("*.json")), default="")
