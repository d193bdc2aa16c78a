"""The server of a federation: its run folder begun or continued over the nodes of a grid.

Every Flower run goes on from the checkpoint of the run folder, so it does not matter how many there are: one for each
time that the server was restarted, a site joined or left, or tasks were added.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedbraid import config as configs
from fedbraid import preflight, runs
from fedbraid.checkpoint import write_durably
from fedbraid.deployment import handshake
from fedbraid.deployment.federation import Federation
from fedbraid.deployment.notes import BROKEN, FINISHED, PAUSED, REFUSED, end_with, write_note
from fedbraid.deployment.supervising import note_running
from fedbraid.errors import RunError, UserError
from fedbraid.experiment import Experiment
from fedbraid.lock import alone_in
from fedbraid.reports import records
from fedbraid.runs import Run
from fedbraid.runtimes.faults import REFUSALS, SETTLED, lasts
from fedbraid.runtimes.flower import OverGrid

if TYPE_CHECKING:
    from flwr.serverapp import Grid

PATIENCE = 60.0
"""Seconds to wait for the process of an earlier Flower run."""
CHECKED = 600.0
"""Seconds that sites may take to say what they would refuse: they build model and data for it."""
INSECURE = "insecure: nodes were not known by keys, and messages travelled without TLS unless Flower saw to it"


@dataclass(frozen=True)
class Open:
    """A grid that is there already, and stays."""

    grid: Grid

    def open(self) -> Grid:
        return self.grid

    def close(self) -> None:
        """Flower ends it."""


def of_sites(grid: Grid, federation: Federation) -> Run:
    """The federation's run, begun where there is none yet, its parties those of the grid."""
    terms, folder = federation.terms, federation.run
    notes = [INSECURE] if terms.insecure else []
    begins = not (folder / "config.toml").is_file()
    name = _name(federation, new=begins)

    def connect(experiment: Experiment) -> OverGrid:
        tested = terms.evaluate == "sites"
        transport = OverGrid(
            Open(grid),
            terms.sites,
            None if tested else experiment.here(),
            handshake=handshake.write(experiment.config, run=name, tested=tested),
            registered=not terms.insecure,
        )
        transport.gather(terms.wait)  # who is missing then is missing in the round
        if begins:
            check(transport, federation)
        return transport

    if begins:
        config = configs.read(str(federation.config))
        partition = config.partition.model_copy(update={"kind": "sites", "sites": terms.sites})
        run = config.run.model_copy(update={"runtime": "deployed"})
        config = config.model_copy(update={"partition": partition, "run": run})
        return runs.start(config, folder, connect=connect, notes=notes)
    runs.change_sites(folder, terms.sites)
    return runs.resume(folder, connect=connect, notes=notes)


def check(transport: OverGrid, federation: Federation) -> None:
    """`NotBegun` with a table where sites say that they would refuse something of the run.

    A site that fails in a way of its own, such as data that are missing, is noted and no more: it may be mended while
    the run waits, and the quorum says whether rounds go on without it.
    """
    told: dict[str, list[str]] = {}
    failed: dict[str, list[str]] = {}
    for client, answer in transport.check(CHECKED).items():
        if isinstance(answer, RunError):
            if lasts(answer):
                (told if answer.code in REFUSALS else failed)[client] = [str(answer)]
            continue
        try:
            lines = [short.line() for short in preflight.read(json.loads(answer)["refused"])]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            lines = [f"it does not say what it would refuse ({type(error).__name__}); run one version everywhere"]
        if lines:
            told[client] = lines
    write_note(federation.checked, {"refused": told | failed})
    if told:
        raise preflight.NotBegun(preflight.table(told))


def serve(
    grid: Grid,
    federation: Federation,
    say: Callable[[str], None] = print,
    ready: Callable[[Grid, Federation], Run] = of_sites,
) -> None:
    """Runs what is left of the federation's run. How it ended is left in `outcome.json`."""
    note_running(federation.computing, {"app": os.getpid()})
    try:
        await_folder(federation.run)
        run = ready(grid, federation)
        for event in run.events():
            say(records.line(records.record(event)).decode().rstrip())
        end_with(federation.folder, FINISHED)
    except UserError as error:
        if isinstance(error, preflight.NotBegun):
            shutil.rmtree(federation.run)  # nothing was computed, and what changes it is changed in config.toml
        end_with(federation.folder, REFUSED, str(error))
        raise
    except RunError as error:
        end_with(federation.folder, PAUSED, str(error), again=error.code != SETTLED)
        raise
    except Exception as error:  # nobody foresaw it, so nobody may lose it
        log = federation.logs / "run.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as words:
            words.write(f"{traceback.format_exc()}\n")
        end_with(federation.folder, BROKEN, f"{type(error).__name__}: {error}; its traceback is in {log}", again=False)
        raise


def await_folder(folder: Path) -> None:
    """Waits for the process of an earlier Flower run to end: it may live a little longer than the server it served."""
    over = time.monotonic() + PATIENCE
    while folder.is_dir():
        try:
            with alone_in(folder):
                return
        except UserError as error:
            if time.monotonic() >= over:
                raise RunError(str(error)) from error
            time.sleep(0.5)


def _name(federation: Federation, *, new: bool) -> str:
    """The run's name at its sites, another for every run, so that none finds holdings of one before."""
    path = federation.folder / "run-name"
    if new or not path.is_file():
        write_durably(path, secrets.token_hex(8).encode())
    return path.read_text()
