"""A plan filled and gathered: runs what is missing, and makes the table from what its folder holds."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from fedbraid import config as configs
from fedbraid import runs
from fedbraid.checkpoint import write_durably
from fedbraid.config import Config
from fedbraid.grids.cells import Cell, Plan, Row, state
from fedbraid.grids.choose import choose, write_chosen
from fedbraid.grids.grid import Choose
from fedbraid.grids.pool import Ended, Report, reason
from fedbraid.reports import table_html, table_latex, table_text, tables
from fedbraid.reports.published import Setting, comparable
from fedbraid.reports.table import COLUMNS, Entry, Table

Execute = Callable[[Sequence[Cell]], Iterator[Report]]
"""What runs cells: `pool.work`, or a stand-in."""

PARTS = (
    "data.classes",
    "data.train_per_class",
    "data.test_per_class",
    "data.train_samples",
    "data.test_samples",
    "data.validation_fraction",
    "partition.clients_per_round",
    "partition.file",
)
"""What must be unset for a run to be on all of the data in the usual way."""

UNCHOSEN = "choosing"
"""The name under which a row fails of which no point has finished."""


def fill(plan: Plan, execute: Execute) -> Generator[Report]:
    """Runs what is missing: first what is chosen by, then the table's own cells. Finished cells are told of first."""
    for row in plan.rows:
        # Folders of another configuration are found now, not after hours.
        for cell in wanted(plan, row) or ():
            state(cell)
    yield from _run([point.cell for row in plan.rows for point in row.points], execute)
    write_chosen(plan)
    own: list[Cell] = []
    for row in plan.rows:
        if failure := _unchosen(row):
            yield Report([Ended(cell, 0.0, failure) for cell in plan.cells(row, {})], [])
        else:
            own += wanted(plan, row) or []
    yield from _run(own, execute)


def wanted(plan: Plan, row: Row) -> list[Cell] | None:
    """The table's own cells of a row; None while something has to be chosen for it."""
    if not row.points:
        return plan.cells(row, {})
    choice = choose(plan, row)
    return plan.cells(row, choice.values) if choice else None


def table(plan: Plan) -> Table:
    """The table of a plan as far as it is filled."""
    grid = plan.grid
    entries = [_entry(plan, row) for row in plan.rows]
    remarks = [_how_chosen(grid.choose)] if any(row.points for row in plan.rows) else []
    remarks += _environments(entries)
    return Table(grid.title, grid.seeds, [COLUMNS[key] for key in grid.columns], entries, remarks)


def write(table: Table, folder: Path) -> list[Path]:
    """Writes the table in every form, and gives the paths."""
    texts = {
        "table.md": table_text.markdown(table),
        "table.csv": table_text.csv_text(table),
        "table.tex": table_latex.latex(table),
        "table.html": table_html.render(table),
    }
    for name, text in texts.items():
        write_durably(folder / name, text.encode())
    return [folder / name for name in texts]


def record(ended: Ended) -> dict[str, Any]:
    """What a pipe is told of a cell that is over."""
    cell = ended.cell
    found = {} if ended.error else runs.read_results(cell.folder)
    about = {"data": cell.data, "method": cell.method, "cell": cell.name, "folder": str(cell.folder)}
    numbers = {key: value for key in COLUMNS if (value := tables.value_of(found, key)) is not None}
    main = {"score_name": next(iter(found["scores"]))} if found.get("scores") else {}
    return {**about, "error": ended.error, **main, **numbers}


def setting(config: Config) -> Setting | None:
    """What published numbers are compared by; None where only a part of the data or of the clients takes part."""
    values, partition = tables.flat(config.model_dump()), config.partition
    if any(values.get(key) is not None for key in PARTS):
        return None
    return Setting(
        method=config.method["name"],
        dataset=Path(config.data.name).stem,
        backbone=config.backbone.name,
        tasks=len(config.stream.sizes) if config.stream.sizes else config.stream.tasks,
        clients=partition.clients,
        partition=partition.kind,
        parameter={"dirichlet": partition.beta, "quantity": float(partition.alpha)}.get(partition.kind),
    )


def _run(cells: Sequence[Cell], execute: Execute) -> Iterator[Report]:
    states = [state(cell) for cell in cells]
    finished = [cell for cell, state in zip(cells, states, strict=True) if state == "finished"]
    missing = [cell for cell, state in zip(cells, states, strict=True) if state != "finished"]
    yield Report([Ended(cell, runs.read_results(cell.folder)["seconds"], earlier=True) for cell in finished], [])
    yield from execute(missing)


def _entry(plan: Plan, row: Row) -> Entry:
    pairs = [(cell, state(cell)) for cell in wanted(plan, row) or ()]
    done = {cell.config.run.seed: cell for cell, state in pairs if state == "finished"}
    failures = {cell.name: reason(cell) for cell, state in pairs if state == "failed"}
    if failure := _unchosen(row):
        failures[UNCHOSEN] = failure
    config = plan.cells(row, {})[0].config
    settled = setting(runs.read_config(next(iter(done.values())).folder)) if done else None
    return Entry(
        data=row.data,
        method=row.method,
        results={seed: runs.read_results(cell.folder) for seed, cell in done.items()},
        failures=failures,
        choice=choose(plan, row) if row.points else None,
        published=comparable(settled) if settled else (),
        bound=configs.options(config).about.centralised,
    )


def _how_chosen(choose: Choose) -> str:
    metric = COLUMNS[choose.metric].heading if choose.metric in COLUMNS else choose.metric.replace("_", " ")
    return (
        f"Values were chosen on the training data alone: by {metric} of a run with seed {choose.seed} in which "
        f"{100 * choose.fraction:g} % of them are held out and stand for the test data."
    )


def _environments(entries: Sequence[Entry]) -> list[str]:
    """What the runs were computed with, each environment once: seconds are comparable within one."""
    found = [result["environment"] for entry in entries for result in entry.results.values() if "environment" in result]
    words = {f"torch {one['torch']} on {one['device']}, threads {one['threads']}": None for one in found}
    return [f"Computed with {'; '.join(words)}."] if words else []


def _unchosen(row: Row) -> str | None:
    """Why nothing can be chosen for a row: no point of its grid has finished, and each has failed."""
    if not row.points or any(state(point.cell) != "failed" for point in row.points):
        return None
    return f"no point of the grid has finished; the first: {reason(row.points[0].cell)}"
