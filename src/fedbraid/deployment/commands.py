"""The commands of `fedbraid deploy`, also for programs: make, bring up, continue, add, end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedbraid import config as configs
from fedbraid import runs
from fedbraid.config import Config
from fedbraid.deployment import making
from fedbraid.deployment.control import ACTIVE, Control
from fedbraid.deployment.directing import answers
from fedbraid.deployment.federation import Federation, Terms, check_name, read
from fedbraid.deployment.hosting import check_port
from fedbraid.deployment.keys import CERTIFICATE, make_certificates
from fedbraid.deployment.notes import FINISHED, Wanted, ended, want, wanted
from fedbraid.deployment.owning import owner_alone
from fedbraid.deployment.site import FILE, read_site
from fedbraid.deployment.supervising import end, running
from fedbraid.errors import RunError, UserError
from fedbraid.naming import file_name

READY = 180.0
"""Seconds that the server and the nodes may take to come up."""


def init(folder: Path, config: Config, sites: Sequence[str], terms: Mapping[str, Any]) -> Federation:
    """A new federation; a site is written NAME=DATA."""
    pairs = list(map(_named, sites))
    making.check_sites([name for name, _ in pairs])
    named = dict(pairs)
    return making.make(folder, config, Terms(sites=list(named), **terms), named)


@owner_alone()
def add(folder: Path, site: str) -> Path:
    """The folder of one more site, which takes part from the next start of the run on."""
    federation = read(folder)
    name, data = _named(site)
    made = making.make_site(federation, name, data, configs.read(str(federation.config)))
    _write_sites(federation, [*federation.terms.sites, name])
    return made


@owner_alone()
def remove(folder: Path, name: str) -> None:
    """Lets a site in no more; its folder stays where it is."""
    federation = read(folder)
    if name not in federation.terms.sites:
        raise UserError(f"there is no site {name!r}; there are {', '.join(federation.terms.sites)}")
    _write_sites(federation, [one for one in federation.terms.sites if one != name])


def renew(folder: Path) -> Path:
    """A new certificate for the server, of the same authority; the server shows it once it is started again."""
    federation = read(folder)
    if federation.terms.insecure:
        raise UserError(f"{folder} is without TLS, so there is no certificate to renew")
    make_certificates(federation.certificates, [federation.host])
    return federation.certificates / CERTIFICATE


@owner_alone()
def up(folder: Path, *, run: bool = True) -> Federation:
    """Starts the server and the sites whose folders lie here, each under a supervisor of its own, and the run.

    What runs already goes on as it is.
    """
    federation = read(folder)
    if not run:
        want(federation.folder, Wanted(False, wanted(federation.folder).flower_run))
    serves = "supervisor" in running(federation.processes / "server.json")
    goes_on = serves and wanted(federation.folder).go_on
    if not serves:
        check_port(federation)
        _detached(federation, "server", str(federation.folder), log=federation.logs / "server.log")
    for name in federation.terms.sites:
        here = federation.site(name)
        if (here / FILE).is_file() and "supervisor" not in running(here / "processes" / "site.json"):
            read_site(here)
            _detached(federation, "site", str(here), log=federation.log(name))
    _await(lambda: answers(federation.port), "the server does not answer", federation.logs / "link.log")
    if run and not goes_on:
        go_on(folder)
    return federation


@owner_alone()
def go_on(folder: Path, settings: Sequence[str] = ()) -> None:
    """The run begun, or continued as a new Flower run; with settings, more tasks are laid behind it first."""
    federation = read(folder)
    if "supervisor" not in running(federation.processes / "server.json"):
        raise UserError(f"the federation is down; start it with 'fedbraid deploy up {folder}'")
    stop(federation)
    if settings:
        if not (federation.run / "config.toml").is_file():
            raise UserError("the run has not begun; its settings are those of config.toml")
        runs.extend(federation.run, settings)
    want(federation.folder, Wanted(True))


def stop(federation: Federation) -> None:
    """Ends the Flower run that goes on, if one does; its folder keeps what it has."""
    now = wanted(federation.folder)
    want(federation.folder, Wanted(False, now.flower_run))
    if now.flower_run is None or not answers(federation.port):
        return
    control = Control(federation)
    if control.run(now.flower_run)[0] in ACTIVE:
        control.stop(now.flower_run)
        _await(lambda: control.run(now.flower_run or 0)[0] not in ACTIVE, "the run does not stop", federation.logs)


@owner_alone()
def down(folder: Path) -> list[str]:
    """Ends the server and the sites that run here, and gives their names; the run can be continued at any time."""
    federation = read(folder)
    notes = sorted(federation.sites.glob("*/processes/site.json"))  # also of sites that were removed
    names = {file_name(name): name for name in federation.terms.sites}
    found = [names.get(path.parts[-3], path.parts[-3]) for path in notes if end(path)]
    return [*found, "server"] if end(federation.processes / "server.json") else found


def wait(folder: Path, *, patience: float | None = None) -> None:
    """Waits until nothing is left to do; `RunError` where the run was given up, or `patience` is over."""
    federation = read(folder)
    until = None if patience is None else time.monotonic() + patience
    while wanted(federation.folder).go_on:
        if until is not None and time.monotonic() > until:
            raise RunError(f"the run is not finished after {patience:.0f} s; see 'fedbraid deploy status {folder}'")
        time.sleep(0.5)
    last = ended(federation.folder)
    if last.get("outcome") != FINISHED:
        raise RunError(last.get("reason") or "the run was stopped")


def _named(text: str) -> tuple[str, str]:
    name, equals, data = text.partition("=")
    if not equals or not data:
        raise UserError(f"{text!r} is no NAME=DATA; write for example --site north=/data/north")
    return check_name(name), data


def _write_sites(federation: Federation, sites: Sequence[str]) -> None:
    Federation(federation.folder, federation.terms.model_copy(update={"sites": list(sites)})).write()


def _detached(federation: Federation, what: str, argument: str, *, log: Path) -> None:
    """A supervisor that outlives this command."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as words:
        subprocess.Popen(
            [sys.executable, "-m", "fedbraid", "deploy", what, argument],
            cwd=federation.folder,
            env=os.environ,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            start_new_session=True,
        )


def _await(ready: Callable[[], bool], what: str, log: Path) -> None:
    until = time.monotonic() + READY
    while not ready():
        if time.monotonic() > until:
            raise RunError(f"{what} after {READY:.0f} s; see {log}")
        time.sleep(0.2)
