"""Choosing values on held-out training data: the best point of a row's grid, the first among equals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedbraid import runs
from fedbraid.checkpoint import write_durably
from fedbraid.grids.cells import Plan, Point, Row, state
from fedbraid.grids.pool import reason
from fedbraid.reports.table import Choice
from fedbraid.reports.tables import main_score


def choose(plan: Plan, row: Row) -> Choice | None:
    """The choice of a row; None while a point has still to run, or where no point has finished.

    A point that failed counts as worse than all others.
    """
    states = {point.cell.name: state(point.cell) for point in row.points}
    finished = [point for point in row.points if states[point.cell.name] == "finished"]
    if not finished or {"new", "unfinished"} & {*states.values()}:
        return None
    best = max(finished, key=lambda point: _goodness(plan, point)).values
    failed = {point.cell.name: reason(point.cell) for point in row.points if point not in finished}
    return Choice(best, at_edge(best, row.grid), failed)


def at_edge(values: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]) -> list[str]:
    """The keys whose value is the least or the greatest of several numbers: a wider grid might hold a better one.

    >>> at_edge({"lr": 0.1, "gram": "full"}, {"lr": [0.1, 0.01, 0.03], "gram": ["full", "diagonal"]})
    ['lr']
    """
    return [key for key, value in values.items() if _ordered(grid[key]) and value in (min(grid[key]), max(grid[key]))]


def write_chosen(plan: Plan) -> None:
    """Writes `chosen.toml`: for every row what was chosen, what is at the edge of its grid, and every point's score."""
    import tomli_w

    found: dict[str, dict[str, Any]] = {}
    for row in plan.rows:
        if row.points and (choice := choose(plan, row)):
            finished = [point for point in row.points if point.cell.name not in choice.failed]
            scores = {point.cell.name: _score(plan, point) for point in finished}
            told = {"chosen": dict(choice.values), "at_edge": list(choice.edges), plan.grid.choose.metric: scores}
            found.setdefault(row.data, {})[row.method] = told
    if found:
        write_durably(plan.folder / "chosen.toml", tomli_w.dumps(found).encode())


def _score(plan: Plan, point: Point) -> float:
    return runs.read_results(point.cell.folder)[plan.grid.choose.metric]


def _goodness(plan: Plan, point: Point) -> float:
    """The point's score, turned round where less of it is better."""
    main = main_score([runs.read_results(point.cell.folder)])
    turned = plan.grid.choose.metric == "score" and not main.more_is_better
    return -_score(plan, point) if turned else _score(plan, point)


def _ordered(values: Sequence[Any]) -> bool:
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return len(numbers) == len(values) and len(set(values)) > 1
