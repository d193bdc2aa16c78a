"""Commands that compute: a run, its continuation, a table of runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedbraid.cli.app import Folder, app
from fedbraid.stopping import STATUS, stops
from fedbraid.terminal import drive, fail, print_table, tell

if TYPE_CHECKING:
    from fedbraid.config import Config


@app.command()
def run(
    config: Annotated[str, typer.Argument(help="A TOML file or the name of a recipe.", metavar="[CONFIG]")] = "",
    method: Annotated[str, typer.Option(help="See 'fedbraid methods'.")] = "",
    data: Annotated[str, typer.Option(help="A known data set, or a path to your own.")] = "",
    backbone: Annotated[str, typer.Option(help="tiny, a hub id, a local folder, or timm:NAME[:PIXELS][@FILE].")] = "",
    clients: Annotated[int, typer.Option(help="Number of simulated clients.")] = 0,
    tasks: Annotated[int, typer.Option(help="Number of tasks.")] = 0,
    rounds: Annotated[int, typer.Option(help="Communication rounds a task.")] = 0,
    epochs: Annotated[int, typer.Option(help="Local epochs a round.")] = 0,
    partition: Annotated[str, typer.Option(help="dirichlet, quantity, natural or iid.")] = "",
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "",
    runtime: Annotated[str, typer.Option(help="inprocess, or flower: Flower's simulation.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = -1,
    out: Annotated[Path | None, typer.Option(help="The run folder to make.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any setting, as section.key=value.")] = None,
) -> None:
    """Run a method over a stream of tasks. Without arguments: LoRM on handwritten digits."""
    from fedbraid import config as configs
    from fedbraid import runs

    flags = {
        "method.name": method,
        "data.name": data,
        "backbone.name": backbone,
        "partition.clients": clients,
        "stream.tasks": tasks,
        "training.rounds": rounds,
        "training.epochs": epochs,
        "partition.kind": partition,
        "training.lr": lr,
        "run.device": device,
        "run.runtime": runtime,
    }
    given = [f"{key}={value}" for key, value in flags.items() if value]
    given += [f"run.seed={seed}"] if seed >= 0 else []
    settings = configs.read(config, [*given, *(set_ or [])])
    folder = out or _default_folder(settings)
    drive(lambda: runs.start(settings, folder))


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def mammoth(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="The run folder to make.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any setting, as section.key=value.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the configuration.")] = False,
) -> None:
    """Run a command line of fed-mammoth, the public code of LoRM: its flags are translated, and shown so."""
    from fedbraid import config as configs
    from fedbraid import runs
    from fedbraid.mammoth import translate

    translation = translate(context.args)
    settings = configs.read(translation.values, set_ or [])
    print_table(["flag", "setting", "note"], [row.cells for row in translation.rows], err=not sys.stdout.isatty())
    if dry_run:
        tell(configs.to_toml(settings))
        return
    folder = out or _default_folder(settings)
    drive(lambda: runs.start(settings, folder))


@app.command()
def resume(
    run: Folder,
    force: Annotated[bool, typer.Option(help="Also under other library versions.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="More tasks, as stream.sizes=[2,2,2], or other rounds.*.")
    ] = None,
) -> None:
    """Continue a run after its last finished round; the end is that of a run that was never stopped.

    With --set stream.sizes=... and data.classes=... more tasks are laid behind those that it has; with --set
    rounds.quorum=..., rounds.deadline=... or rounds.retries=... a run that has paused waits for others from now on.
    """
    from fedbraid import runs

    if set_:
        runs.extend(run, set_, force=force)
    drive(lambda: runs.resume(run, force=force))


@app.command()
def table(
    grid: Annotated[Path, typer.Argument(help="A grid file.", metavar="GRID")],
    out: Annotated[Path | None, typer.Option(help="The folder to fill; runs/ and the grid's name otherwise.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once, each with one thread where there are several.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the runs and what there is of them.")] = False,
) -> None:
    """Methods x data sets x seeds: run what is missing, then write the table."""
    from fedbraid import grids

    folder = out or Path("runs") / grid.stem
    plan = grids.plan(grids.read(grid), folder, source=str(grid), threads=1 if jobs > 1 else None)
    if dry_run:
        print_table(["state", "run"], grids.listing(plan))
        return
    try:
        with stops():
            complete = grids.show(plan, jobs=jobs)
    except (KeyboardInterrupt, BrokenPipeError):
        fail(f"stopped; what has run is kept in {folder}. Continue with the same command", STATUS)
    if not complete:
        fail(f"some runs failed; the notes of {folder / 'table.md'} say why. The same command tries them again", 1)


def _default_folder(settings: Config) -> Path:
    from datetime import datetime

    from fedbraid import config as configs
    from fedbraid.naming import shortened

    method, data = configs.options(settings).about.name, shortened(Path(settings.data.name).stem)
    return Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{method}-{data}"
