"""Tasks that come later: a run whose stream goes on, with classes that nobody knew when it began.

The tasks so far stay as they are, and so does everything else of the configuration. Classes are known by their place in
the stream, and every choice of samples and owners is drawn by class or by task; so a run that is extended ends with the
bits of one that knew all tasks from the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedbraid import checkpoint
from fedbraid import config as configs
from fedbraid.checkpoint import Checkpoint, write_durably
from fedbraid.config import Config
from fedbraid.errors import UserError
from fedbraid.experiment import Experiment, build
from fedbraid.lock import alone_in
from fedbraid.runs.folder import change, check_environment, check_files, describe, read_config, read_summary

MAY_CHANGE: Mapping[str, tuple[str, ...]] = {"stream": ("tasks", "sizes", "order"), "data": ("classes",)}
"""What tells of the stream."""
PATIENCE = "rounds"
"""The section that says how long rounds wait and for whom: no number of a round follows from it."""


def extend(folder: Path, settings: Sequence[str], *, force: bool = False, notes: Sequence[str] = ()) -> None:
    """Lays more tasks behind those of a run folder, which is then continued like any other; or changes its patience.

    Raises `UserError` where the settings change anything else, or the tasks so far would not be the first ones.
    """
    before, said = read_config(folder), read_summary(folder)
    wanted = _wanted(before, settings)
    check_files(folder, force=force)
    if wanted.model_copy(update={PATIENCE: before.rounds}) == before:
        _rewrite(folder, wanted)
        return
    with alone_in(folder):
        last = checkpoint.read(folder / "state")
        tasks = [tuple(names) for names in said["task_classes"]]
        experiment = _experiment(wanted, tasks, ordered=wanted.stream.order != before.stream.order)
        check_environment(folder, experiment, force=force)
        _check_rounds(experiment, tasks, last)
        _check_samples(experiment, tasks, said)
        with change(folder):
            (folder / "results.json").unlink(missing_ok=True)
            (folder / "partition.json").unlink(missing_ok=True)  # drawn anew it is the same for the tasks so far
            write_durably(folder / "config.toml", configs.to_toml(experiment.config).encode())
            describe(folder, experiment, notes)


def _wanted(before: Config, settings: Sequence[str]) -> Config:
    """The configuration with these settings; `UserError` where they change more than the stream."""
    changed = configs.read(before.model_dump(), settings)
    if changed.stream.sizes != before.stream.sizes and changed.stream.tasks == before.stream.tasks:
        changed = changed.model_copy(update={"stream": changed.stream.model_copy(update={"tasks": None})})
    old, new = before.model_dump(), changed.model_dump()
    for section, values in new.items():
        for key, value in values.items():
            if section != PATIENCE and value != old[section].get(key) and key not in MAY_CHANGE.get(section, ()):
                raise UserError(
                    f"{section}.{key} = {value!r} would make another run of it (it is {old[section].get(key)!r}); a "
                    "run that is continued can be given more tasks by stream.sizes and data.classes, and other [rounds]"
                )
    return changed


def _experiment(wanted: Config, tasks: Sequence[tuple[str, ...]], *, ordered: bool) -> Experiment:
    """The experiment whose first tasks are these; new classes follow in the data's order where none is given."""
    experiment = build(wanted)
    names = experiment.dataset.class_names
    known = [name for task in tasks for name in task]
    if ordered or not set(known) <= set(names):
        return _checked(experiment, tasks)
    if experiment.stream.names(names)[: len(tasks)] == tuple(tasks):
        return experiment
    order = [*known, *(name for name in names if name not in known)]
    stream = wanted.stream.model_copy(update={"order": order})
    return _checked(build(wanted.model_copy(update={"stream": stream})), tasks)


def _checked(experiment: Experiment, tasks: Sequence[tuple[str, ...]]) -> Experiment:
    found = experiment.stream.names(experiment.dataset.class_names)
    for number, task in enumerate(tasks):
        new = found[number] if number < len(found) else ()
        if new != task:
            raise UserError(
                f"task {number} is {', '.join(task)}, and would become {', '.join(new) or 'nothing'}; the tasks so far "
                "stay as they are, new classes come behind them: give stream.sizes with the old sizes first"
            )
    return experiment


def _check_rounds(experiment: Experiment, tasks: Sequence[tuple[str, ...]], last: Checkpoint | None) -> None:
    if len(experiment.tasks) < len(tasks):
        raise UserError("this method learns all classes as one task, which cannot be extended")
    if last and last.kept:
        raise UserError(
            "the clients of this method keep samples of theirs by number, and more classes would number them anew; "
            "begin a new run with all tasks"
        )


def _check_samples(experiment: Experiment, tasks: Sequence[tuple[str, ...]], said: Mapping[str, Any]) -> None:
    """`UserError` where a client's samples of the tasks so far are not those that it had."""
    before = said["partition"]["samples"]
    for client, party in experiment.clients.items():
        now = [len(party.train(task)) for task in experiment.tasks[: len(tasks)]]
        if client in before and now != before[client]:
            raise UserError(
                f"client {client} has {now} samples of the tasks so far and had {before[client]}; restore the data"
            )


def change_sites(folder: Path, sites: Sequence[str]) -> None:
    """Takes note in a run folder of who takes part from now on."""
    config = read_config(folder)
    if config.partition.sites == list(sites):
        return
    partition = config.partition.model_copy(update={"sites": list(sites)})
    _rewrite(folder, config.model_copy(update={"partition": partition}))


def _rewrite(folder: Path, config: Config) -> None:
    with alone_in(folder), change(folder):
        write_durably(folder / "config.toml", configs.to_toml(config).encode())
