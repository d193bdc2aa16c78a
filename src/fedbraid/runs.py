"""A run is one folder: everything that is needed to continue it, to repeat it and to look at it.

    config.toml      the whole configuration; `fedbraid run config.toml` repeats the run
    environment.json versions and machine class
    partition.json   which client holds which samples
    summary.json     what is run on what, in the words of the report
    events.jsonl     one record a finished round
    activity.jsonl   what happened when: who was asked, answered, failed, was refused (see `activity`)
    journal/         the answers received in the unfinished round
    clients/         what simulated parties hold, where Flower runs them (see `sites`)
    state/           the newest generations of the state (see `checkpoint`)
    results.json     the metrics and health signs, once the run is finished
    report.html      the report

After every round the record is appended and synced, then the state is written with the length of the log that belongs
to it; a log that is ahead of the state is cut back when the run is resumed. So the folder can be left at any moment.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedbraid import aggregation, checkpoint, sites
from fedbraid import config as configs
from fedbraid.activity import Activity
from fedbraid.checkpoint import DRAFT, Checkpoint, disk_error, state_sha256, write_durably
from fedbraid.config import Config
from fedbraid.core import Event, State
from fedbraid.data import save_partition
from fedbraid.environment import differences, environment
from fedbraid.errors import RunError, UserError
from fedbraid.evaluation import final_scores, metrics, rows_of
from fedbraid.experiment import Experiment, build
from fedbraid.lock import alone_in
from fedbraid.reports import records
from fedbraid.reports.deviations import measures
from fedbraid.reports.health import Thresholds, judged
from fedbraid.reports.html import render
from fedbraid.runtimes.exchange import Transport
from fedbraid.runtimes.journal import Journal
from fedbraid.runtimes.server import Server


@dataclass(frozen=True)
class Run:
    """A run folder with the experiment it holds, ready to go on from `start`."""

    folder: Path
    experiment: Experiment
    start: Checkpoint | None = None

    def events(self) -> Iterator[Event]:
        """The remaining events; each is on disk before it is given out. The results are written at the end."""
        state = self.start.state if self.start else State()
        with alone_in(self.folder), self._told(), closing(self._transport()) as transport:
            runtime = self._runtime(transport)
            for event in self.experiment.events(runtime, self.start):
                state = event.state
                length = _append(self.folder / "events.jsonl", records.line(records.record(event)))
                last = Checkpoint(event.number + 1, state, runtime.memory(), length, runtime.kept())
                checkpoint.write(self.folder / "state", last)
                yield event
        _write_json(self.folder / "results.json", self._results(state))
        write_report(self.folder)
        shutil.rmtree(self.folder / "journal", ignore_errors=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whoever watches is told of a run that ends early, and why."""
        try:
            yield
        except BaseException as error:
            reason = str(error) if isinstance(error, RunError) else type(error).__name__
            Activity(self.folder / "activity.jsonl")("stopped", reason=reason)
            raise

    def _transport(self) -> Transport:
        if self.experiment.config.run.runtime == "flower":
            return sites.simulation(self.folder, self.experiment)
        return self.experiment.here(self.start.kept if self.start else None)

    def _runtime(self, transport: Transport) -> Server:
        return self.experiment.server(
            transport,
            run=self.folder.name,
            memory=self.start.memory if self.start else None,
            journal=Journal(self.folder / "journal"),
            tell=Activity(self.folder / "activity.jsonl"),
        )

    def _results(self, state: State) -> dict[str, Any]:
        events = records.read(self.folder / "events.jsonl")
        facts = {
            "finished": True,
            **summary(self.experiment),
            **measured(events, self.experiment.dataset.scores),
            **costs(events),
            "peak_rss_bytes": _peak_memory(),
            "state_sha256": state_sha256(state),
        }
        facts |= _judged(facts, events, self.experiment.config)
        return facts | {"environment": environment(self.experiment.model.device)}


def start(config: Config, folder: Path) -> Run:
    """A new run in a new folder; `UserError` where the folder already holds something."""
    if folder.exists() and (not folder.is_dir() or any(path.suffix != DRAFT for path in folder.iterdir())):
        held = (folder / "config.toml").is_file()
        hint = f"continue it with 'fedbraid resume {folder}', or" if held else ""
        raise UserError(f"{folder} already holds {'a run' if held else 'files'}: {hint} choose another --out")
    experiment = build(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the run folder {folder}: {error.strerror}") from error
    write_durably(folder / "config.toml", configs.to_toml(experiment.config).encode())
    _describe(folder, experiment)
    return Run(folder, experiment)


def resume(folder: Path, *, force: bool = False) -> Run:
    """The run of a folder, ready to go on after its last finished round.

    Raises `UserError` where the folder holds no run, or where libraries or machine differ and `force` is not set.
    """
    config = read_config(folder)
    last = checkpoint.read(folder / "state")
    partition = folder / "partition.json"
    experiment = build(config, partition_file=partition if partition.is_file() else None)
    _check_environment(folder, experiment, force=force)
    _cut(folder / "events.jsonl", last.events_bytes if last else 0)
    _describe(folder, experiment)
    return Run(folder, experiment, last)


def read_config(folder: Path) -> Config:
    """The configuration of a run folder; `UserError` where there is none."""
    path = folder / "config.toml"
    if not path.is_file():
        raise UserError(f"{folder} holds no run (it has no config.toml); start one with 'fedbraid run --out {folder}'")
    return configs.read(str(path))


def read_results(folder: Path) -> dict[str, Any]:
    """The results of a run folder, or what can be said of one that is not finished."""
    path = folder / "results.json"
    if path.is_file():
        return _read_json(path)
    facts = read_summary(folder)
    events = records.read(folder / "events.jsonl")
    facts = {"finished": False, **facts, **measured(events, facts.get("score_names", ())), **costs(events)}
    return facts | _judged(facts, events, read_config(folder))


def judge(folder: Path, settings: Sequence[str] = (), against: Path | None = None) -> dict[str, Any]:
    """The results of a run folder with its health judged anew, by thresholds changed as `health.key=value`.

    `against` is a run that differs in the residual alone, which says what that is worth.
    """
    strange = [setting for setting in settings if not setting.startswith("health.")]
    if strange:
        raise UserError(f"a report changes thresholds alone, as --set health.noise=0.1; {strange[0]} needs a new run")
    config = configs.read(read_config(folder).model_dump(), settings)
    results, events = read_results(folder), records.read(folder / "events.jsonl")
    if against:
        other = (read_config(against), read_results(against))
        results["against"] = aggregation.against((config, results), other, against.name)
    return results | _judged(results, events, config)


def read_summary(folder: Path) -> dict[str, Any]:
    """What a run folder says of itself; `UserError` where the run has not begun."""
    path = folder / "summary.json"
    if not path.is_file():
        raise UserError(f"the run in {folder} has not begun; begin it with 'fedbraid resume {folder}'")
    return _read_json(path)


def write_report(folder: Path, results: Mapping[str, Any] | None = None) -> Path:
    """Writes `report.html` from what the folder holds, and gives its path; `results` are those of `judge`."""
    events = records.read(folder / "events.jsonl")
    page = render(results or judge(folder), events, (folder / "config.toml").read_text())
    path = folder / "report.html"
    write_durably(path, page.encode())
    return path


def summary(experiment: Experiment) -> dict[str, Any]:
    """What was run, in the words of the report."""
    names = experiment.stream.names(experiment.dataset.class_names)
    partition = experiment.partition
    spread = {
        client: [len(party.train(task)) for task in experiment.tasks] for client, party in experiment.clients.items()
    }
    return {
        **_named(experiment.config),
        "clients": len(experiment.clients),
        "tasks": len(names),
        "task_classes": [list(task) for task in names],
        "score_names": list(experiment.dataset.scores),
        "pairs": isinstance(next(iter(experiment.dataset.train.texts or ()), ""), tuple),
        "rounds": experiment.rounds,
        **aggregation.low_rank(experiment),
        "partition": {"kind": partition.kind, "samples": spread},
        "notes": [experiment.dataset.note] if experiment.dataset.note else [],
    }


def measured(events: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The metrics of class-incremental learning where classes are told, and the data set's scores."""
    rows = rows_of(events)
    return (asdict(metrics(rows)) if rows else {}) | final_scores(events, names)


def costs(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Bytes by client (the mean over all clients that took part), the numbers that a client sends in the largest round
    (the mean over its clients), and seconds of clients and evaluation."""
    return {
        "bytes_up_per_client": _mean_by_client(events, "bytes_up"),
        "bytes_down_per_client": _mean_by_client(events, "bytes_down"),
        "parameters_up_per_round": _largest_round(events),
        "seconds": sum(event["seconds"] + event["test_seconds"] for event in events),
    }


def _judged(results: Mapping[str, Any], events: Sequence[Mapping[str, Any]], config: Config) -> dict[str, Any]:
    """What averaging the factors loses, and the health signs by the configuration's thresholds."""
    thresholds = Thresholds(**config.health.model_dump())
    return {**measures(events), "health": judged(results, events, thresholds)}


def _named(config: Config) -> dict[str, Any]:
    name = Path(config.data.name).stem if os.sep in config.data.name else config.data.name
    backbone = Path(config.backbone.name)
    short = "/".join(backbone.parts[-2:]) if backbone.is_dir() else config.backbone.name.partition("@")[0]
    return {"method": configs.options(config).about.name, "data": name, "backbone": short, "seed": config.run.seed}


def _mean_by_client(events: Sequence[Mapping[str, Any]], key: str) -> float:
    totals: dict[str, int] = {}
    for event in events:
        for client, size in event[key].items():
            totals[client] = totals.get(client, 0) + size
    return sum(totals.values()) / max(len(totals), 1)


def _largest_round(events: Sequence[Mapping[str, Any]]) -> float:
    sent = [event.get("values_up", {}) for event in events]
    return max((sum(values.values()) / len(values) for values in sent if values), default=0.0)


def _describe(folder: Path, experiment: Experiment) -> None:
    """Writes what a run folder says of itself, as far as it does not say it yet."""
    _write_json(folder / "summary.json", summary(experiment))
    if not (folder / "partition.json").is_file():
        save_partition(experiment.partition, folder / "partition.json")
    if not (folder / "environment.json").is_file():
        _write_json(folder / "environment.json", environment(experiment.model.device))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); 'fedbraid resume' writes it anew once it is removed") from error


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_durably(path, (json.dumps(values, indent=2) + "\n").encode())


def _check_environment(folder: Path, experiment: Experiment, *, force: bool) -> None:
    path = folder / "environment.json"
    if force or not path.is_file():
        return
    changed = differences(_read_json(path), environment(experiment.model.device))
    if changed:
        raise UserError(
            f"{folder} was computed in another environment ({'; '.join(changed)}), so the numbers would not be "
            "those of one run; restore it, or continue all the same with --force"
        )


def _append(path: Path, line: bytes) -> int:
    """The length of the log after the line is on disk."""
    try:
        with path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            return file.tell()
    except OSError as error:
        raise disk_error(error, path, len(line)) from error


def _cut(path: Path, length: int) -> None:
    if path.is_file() and path.stat().st_size > length:
        os.truncate(path, length)


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
