"""Commands that tell: of finished runs, and of what there is by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedbraid.cli.app import AsJson, Folder, app
from fedbraid.terminal import print_health, print_json, print_table, print_worth, tell


@app.command()
def report(
    run: Folder,
    against: Annotated[Path | None, typer.Option(help="A run that differs in the residual alone.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A threshold, as health.noise=0.1.")] = None,
) -> None:
    """Write the report of a run, also of an unfinished one, and tell its health signs."""
    from fedbraid import runs

    results = runs.judge(run, set_ or [], against)
    print_health(results)
    tell(runs.write_report(run, results))


@app.command()
def compare(
    run: Annotated[list[Path], typer.Argument(help="Run folders.", metavar="RUN...")], as_json: AsJson = False
) -> None:
    """Runs side by side: mean and deviation over seeds; what the residual is worth, where runs differ in it alone."""
    from fedbraid import runs
    from fedbraid.reports import tables

    found = [(runs.read_config(folder), runs.read_results(folder)) for folder in run]
    pairs = [(config.model_dump(), results) for config, results in found]
    columns = tables.columns_of([results for _, results in pairs])
    rows = tables.rows(pairs, columns)
    headings = [heading for _, heading, _ in columns]
    if as_json:
        cells = [dict(zip(headings, row.cells, strict=True)) for row in rows]
        print_json([{"label": r.label, "runs": r.runs} | c for r, c in zip(rows, cells, strict=True)])
        return
    print_table(
        ["setting", "runs", *headings],
        [[row.label, str(row.runs), *[tables.text(cell, row.runs) for cell in row.cells]] for row in rows],
    )
    print_worth(found)


@app.command()
def methods(as_json: AsJson = False) -> None:
    """The methods there are."""
    from dataclasses import asdict

    from fedbraid.masking import summable
    from fedbraid.methods import METHODS

    about = [entry.about for entry in METHODS.values()]
    if as_json:
        able = summable()
        print_json([{**asdict(row), "sums": row.name in able} for row in about])
        return
    print_table(
        ["name", "family", "travels up", "citation"],
        [[a.name, a.family, a.travels, a.citation] for a in about],
    )


@app.command()
def datasets(as_json: AsJson = False) -> None:
    """The data sets known by name."""
    from fedbraid.data import DATASETS

    rows = [
        {
            "name": s.name,
            "modality": s.modality,
            "classes": s.classes,
            "tasks": s.tasks,
            "scores": list(s.scores),
            "pairs": bool(s.tables.columns.pair),
            "source": s.origin,
            "page": s.page,
            "hub": s.hub,
            "licence": s.licence,
        }
        for s in DATASETS.values()
    ]
    if as_json:
        print_json(rows)
        return
    keys = ["name", "modality", "classes", "tasks", "licence", "source"]
    print_table(keys, [[str(row[key]) for key in keys] for row in rows])


@app.command()
def recipes(as_json: AsJson = False) -> None:
    """The recipes there are: published settings by name."""
    from fedbraid import config as configs

    rows = [{"name": name, "title": configs.recipe_title(name)} for name in configs.recipes()]
    if as_json:
        print_json(rows)
        return
    print_table(["name", "title"], [[*row.values()] for row in rows])
