"""A run as it goes on: every event is on disk before it is given out."""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedbraid import checkpoint, preflight, sites
from fedbraid import config as configs
from fedbraid.activity import Activity
from fedbraid.checkpoint import DRAFT, Checkpoint, state_sha256, write_durably
from fedbraid.config import Config
from fedbraid.core import Event, State
from fedbraid.environment import environment
from fedbraid.errors import RunError, UserError
from fedbraid.experiment import Experiment, build
from fedbraid.lock import alone_in
from fedbraid.log import Log
from fedbraid.privacy.guard import Tell, tell_nobody
from fedbraid.reports import records
from fedbraid.runs import folder as folders
from fedbraid.runs.results import costs, judgement, measured, private, write_report
from fedbraid.runtimes.exchange import Transport
from fedbraid.runtimes.journal import Journal
from fedbraid.runtimes.server import Server

Connect = Callable[[Experiment], Transport]
"""Where the parties of an experiment are, for a run whose folder does not tell."""


@dataclass(frozen=True)
class Run:
    """A run folder with the experiment it holds, ready to go on from `start`.

    `connect` gives the transport of a run whose parties are elsewhere; the report tells its `notes`. `heard` is told
    whatever the log of activity is told.
    """

    folder: Path
    experiment: Experiment
    start: Checkpoint | None = None
    connect: Connect | None = None
    notes: Sequence[str] = ()
    heard: Tell = tell_nobody

    def events(self) -> Iterator[Event]:
        """The remaining events; each is on disk before it is given out. The results are written at the end."""
        state = self.start.state if self.start else State()
        guarded = self.experiment.guarded(self.folder, tell=self._tell)
        with alone_in(self.folder), self._told(), closing(self._transport(guarded)) as transport:
            runtime = self._runtime(transport)
            log = Log(self.folder / "events.jsonl", self.start.events_bytes if self.start else 0)
            for event in self.experiment.events(runtime, self.start):
                state = event.state
                log.append(records.line(records.record(event)))
                done = event.number + 1
                last = Checkpoint(done, state, runtime.memory(), log.length, log.sha256, runtime.kept())
                checkpoint.write(self.folder / "state", last)
                if guarded.guard:
                    guarded.guard.absorb(self.folder / "clients")
                yield event
        folders.write_json(self.folder / "results.json", self._results(state))
        write_report(self.folder)
        shutil.rmtree(self.folder / "journal", ignore_errors=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whoever watches is told of a run that ends early, and why."""
        try:
            yield
        except BaseException as error:
            reason = str(error) if isinstance(error, RunError) else type(error).__name__
            self._tell("stopped", reason=reason)
            raise

    def _tell(self, what: str, **facts: Any) -> None:
        Activity(self.folder / "activity.jsonl")(what, **facts)
        self.heard(what, **facts)

    def _transport(self, experiment: Experiment) -> Transport:
        if self.connect:
            return self.connect(experiment)
        if experiment.config.run.runtime == "flower":
            return sites.simulation(self.folder, experiment)
        return experiment.here(self.start.kept if self.start else None)

    def _runtime(self, transport: Transport) -> Server:
        return self.experiment.server(
            transport,
            run=self.folder.name,
            memory=self.start.memory if self.start else None,
            journal=Journal(self.folder / "journal"),
            tell=self._tell,
        )

    def _results(self, state: State) -> dict[str, Any]:
        events = records.read(self.folder / "events.jsonl")
        facts = {
            "finished": True,
            **folders.summary(self.experiment, self.notes),
            **measured(events, self.experiment.dataset.scores),
            **costs(events),
            **private(self.folder),
            "peak_rss_bytes": _peak_memory(),
            "state_sha256": state_sha256(state),
        }
        facts |= judgement(facts, events, self.experiment.config)
        return facts | {"environment": environment(self.experiment.model.device)}


def start(config: Config, folder: Path, *, connect: Connect | None = None, notes: Sequence[str] = ()) -> Run:
    """A new run in a new folder; `UserError` where the folder already holds something."""
    if folder.exists() and (not folder.is_dir() or any(path.suffix != DRAFT for path in folder.iterdir())):
        held = (folder / "config.toml").is_file()
        hint = f"continue it with 'fedbraid resume {folder}', or" if held else ""
        raise UserError(f"{folder} already holds {'a run' if held else 'files'}: {hint} choose another --out")
    _check_place(config, connect)
    experiment = build(config)
    if connect is None:
        preflight.check(experiment.guarded(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the run folder {folder}: {error.strerror}") from error
    write_durably(folder / "config.toml", configs.to_toml(experiment.config).encode())
    folders.describe(folder, experiment, notes)
    return Run(folder, experiment, connect=connect, notes=notes)


def resume(folder: Path, *, force: bool = False, connect: Connect | None = None, notes: Sequence[str] = ()) -> Run:
    """The run of a folder, ready to go on after its last finished round.

    Raises `UserError` where the folder holds no run, or where libraries, machine, configuration or partition
    differ and `force` is not set.
    """
    config = folders.read_config(folder)
    _check_place(config, connect)
    folders.check_files(folder, force=force)
    last = checkpoint.read(folder / "state", folder / "events.jsonl")
    partition = folder / "partition.json"
    experiment = build(config, partition_file=partition if partition.is_file() else None)
    folders.check_environment(folder, experiment, force=force)
    folders.describe(folder, experiment, notes)
    return Run(folder, experiment, last, connect, notes)


def _check_place(config: Config, connect: Connect | None) -> None:
    """`UserError`, before anything is read or made, where the run's parties cannot be reached from here."""
    if config.run.runtime == "flower" and connect is None:
        sites.check_settings(config)
    if config.run.runtime == "deployed" and connect is None:
        raise UserError(
            "the clients of this run are sites with data of their own (run.runtime = 'deployed'); start and continue "
            "it with 'fedbraid deploy run'"
        )


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
