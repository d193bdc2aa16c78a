"""The files of a run folder: what it says of itself, how it is written, and in which environment it may go on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedbraid import aggregation
from fedbraid import config as configs
from fedbraid.checkpoint import write_durably
from fedbraid.config import Config
from fedbraid.data import partition_text
from fedbraid.environment import differences, environment
from fedbraid.errors import RunError, UserError
from fedbraid.experiment import Experiment

NUMBERS_FOLLOW_FROM = ("config.toml", "partition.json")
"""The files beside machine and libraries that decide every number; their SHA-256 is written down with those."""


def read_config(folder: Path) -> Config:
    """The configuration of a run folder; `UserError` where there is none."""
    path = folder / "config.toml"
    if not path.is_file():
        raise UserError(f"{folder} holds no run (it has no config.toml); start one with 'fedbraid run --out {folder}'")
    return configs.read(str(path))


def read_summary(folder: Path) -> dict[str, Any]:
    """What a run folder says of itself; `UserError` where the run has not begun."""
    path = folder / "summary.json"
    if not path.is_file():
        raise UserError(f"the run in {folder} has not begun; begin it with 'fedbraid resume {folder}'")
    return read_json(path)


def summary(experiment: Experiment, notes: Sequence[str] = ()) -> dict[str, Any]:
    """What was run, in the words of the report; `notes` are what a reader must know beside it."""
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
        "notes": [note for note in (experiment.dataset.note, *experiment.notes, *notes) if note],
    }


def describe(folder: Path, experiment: Experiment, notes: Sequence[str] = ()) -> None:
    """Writes what a run folder says of itself, as far as it does not say it yet."""
    write_json(folder / "summary.json", summary(experiment, notes))
    if not (folder / "partition.json").is_file():
        write_durably(folder / "partition.json", partition_text(experiment.partition).encode())
    if not (folder / "environment.json").is_file():
        write_json(folder / "environment.json", environment(experiment.model.device) | _digests(folder))


@contextmanager
def change(folder: Path) -> Iterator[None]:
    """Lets the files that the numbers follow from be written anew; what a crash leaves behind is as good as either."""
    path = folder / "environment.json"
    recorded = {name: text for name, text in read_json(path).items() if name not in NUMBERS_FOLLOW_FROM}
    write_json(path, recorded)
    yield
    write_json(path, recorded | _digests(folder))


def check_files(folder: Path, *, force: bool) -> None:
    """`UserError` where the files that the numbers follow from are not as they were written, unless `force` is set."""
    path = folder / "environment.json"
    if force or not path.is_file():
        return
    recorded = read_json(path)
    changed = [name for name, digest in _digests(folder).items() if recorded.get(name, digest) != digest]
    if changed:
        raise UserError(
            f"{folder / changed[0]} is not as environment.json recorded it, so the numbers would not be those of "
            "one run; restore it, or continue all the same with --force"
        )


def check_environment(folder: Path, experiment: Experiment, *, force: bool) -> None:
    """`UserError` where libraries or machine are not those that the run began with, unless `force` is set."""
    path = folder / "environment.json"
    if force or not path.is_file():
        return
    before = {name: text for name, text in read_json(path).items() if name not in NUMBERS_FOLLOW_FROM}
    changed = differences(before, environment(experiment.model.device))
    if changed:
        raise UserError(
            f"{folder} was computed in another environment ({'; '.join(changed)}), so the numbers would not be "
            "those of one run; restore it as environment.json tells, or continue all the same with --force"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The values of a file; `RunError` where it is damaged."""
    try:
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise ValueError("it holds no JSON object")
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}); 'fedbraid resume' writes it anew once it is removed") from error
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replaces the file by these values."""
    write_durably(path, (json.dumps(values, indent=2) + "\n").encode())


def _digests(folder: Path) -> dict[str, str]:
    files = [folder / name for name in NUMBERS_FOLLOW_FROM]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}


def _named(config: Config) -> dict[str, Any]:
    name = Path(config.data.name).stem if os.sep in config.data.name else config.data.name
    backbone = Path(config.backbone.name)
    short = "/".join(backbone.parts[-2:]) if backbone.is_dir() else config.backbone.name.partition("@")[0]
    return {"method": configs.options(config).about.name, "data": name, "backbone": short, "seed": config.run.seed}
