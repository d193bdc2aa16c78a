"""A table of methods on data sets: what its cells say, which is best, and what must be said of it.

A `Table` is plain values; `table_text`, `table_latex` and `table_html` write it down without computing anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedbraid.evaluation import SCORES, score_of
from fedbraid.reports import tables
from fedbraid.reports.published import Published

MEASURES = {100.0: "%", 1e-6: "MB", 1e-3: "thousand", 1.0: "s"}
"""What a column is measured in, by the unit that its values are multiplied into."""


@dataclass(frozen=True)
class Column:
    """A number of the table: its key in the results, its heading, and whether more of it is better."""

    key: str
    heading: str
    unit: float
    more_is_better: bool

    @property
    def measure(self) -> str:
        if self.key in MAIN or self.key in SCORES:
            return "x 100" if self.unit > 1 else "x 1"
        return MEASURES[self.unit]

    def on(self, results: Sequence[Mapping[str, Any]]) -> Column:
        """The column on the data set of these results: what "score" means there."""
        if self.key not in MAIN:
            return self
        score = tables.main_score(results)
        return Column(self.key, MAIN[self.key].format(score.heading), score.unit, score.more_is_better)


MAIN = {"score": "{}", "best_score": "best {}"}
"""The columns of a data set's main score, and how it is named in them."""

COLUMNS = {
    key: Column(key, heading, unit, score_of(key).more_is_better if key in {*MAIN, *SCORES} else key in ("faa", "aia"))
    for key, heading, unit in (*tables.COLUMNS, *tables.ADAPTER_COLUMNS, *tables.SCORE_COLUMNS)
}

FEDERATED = ("forgetting", "bytes_up_per_client", "bytes_down_per_client")
"""What has no meaning where all data are learned at once in one place."""


@dataclass(frozen=True)
class Choice:
    """What was chosen for a row on held-out training data: values by key, and which are at the edge of their grid.

    `failed` holds the points of the grid that did not finish, and why.
    """

    values: Mapping[str, Any]
    edges: Sequence[str] = ()
    failed: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Entry:
    """A method on a data set: the results of its finished runs by seed, and why others failed.

    `bound` says that it trains on all data in one place: it is shown, but is no competitor.
    """

    data: str
    method: str
    results: Mapping[int, Mapping[str, Any]]
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    choice: Choice | None = None
    published: Sequence[Published] = ()
    bound: bool = False

    @property
    def name(self) -> str:
        return f"{self.method} (upper bound)" if self.bound else self.method

    def number(self, column: Column) -> tuple[float, float] | None:
        """Mean and sample deviation in the column's unit; None without a finished run, or where it has no meaning."""
        if self.bound and column.key in FEDERATED:
            return None
        return tables.mean_and_deviation(list(self.results.values()), column.key, column.unit)

    def references(self, column: Column) -> list[Published]:
        """The published numbers of this setting and metric."""
        return [number for number in self.published if number.metric == column.key]


@dataclass(frozen=True)
class Table:
    """All entries, data set by data set; `remarks` are what the one who made it has to say."""

    title: str
    seeds: Sequence[int]
    columns: Sequence[Column]
    entries: Sequence[Entry]
    remarks: Sequence[str] = ()

    @property
    def data(self) -> list[str]:
        """The labels of the data sets in order."""
        return list(dict.fromkeys(entry.data for entry in self.entries))

    def on(self, data: str) -> list[Entry]:
        """The entries of one data set, one a method."""
        return [entry for entry in self.entries if entry.data == data]

    def columns_on(self, data: str) -> list[Column]:
        """The columns as they are on a data set."""
        results = [result for entry in self.on(data) for result in entry.results.values()]
        return [column.on(results) for column in self.columns]

    @property
    def failed(self) -> bool:
        return any(entry.failures for entry in self.entries)


@dataclass(frozen=True)
class Cell:
    """The text of a cell; `mark` is `best`, `close` (within one deviation of the best) or empty."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class Section:
    """One data set's part of the table, ready to be written down."""

    data: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def sections(table: Table) -> list[Section]:
    """The table data set by data set: the method first, a column of published numbers where there are any."""
    return [_section(table, data) for data in table.data]


def notes(table: Table) -> list[str]:
    """What must be said of the table: how to read it, what was chosen, what failed, where numbers are from."""
    several = len(table.seeds) > 1
    seeds = ", ".join(map(str, table.seeds))
    percents = [column.heading for column in table.columns if column.measure == "%"]
    said = [f"Mean ± sample deviation over the seeds {seeds}." if several else f"One run, seed {seeds}: no deviation."]
    if percents:
        said.append(f"{', '.join(percents)} in percent.")
    if times := dict.fromkeys(c.heading for d in table.data for c in table.columns_on(d) if c.measure == "x 100"):
        said.append(f"{', '.join(times)} times 100.")
    if any(column.measure == "MB" for column in table.columns):
        said.append("MB up and down: 10^6 bytes of a client in the whole run, mean over clients.")
    said += table.remarks
    said += [f"Chosen on {data}: {words}." for data in table.data if (words := _choices(table.on(data)))]
    said += [line for entry in table.entries for line in _failures(entry)]
    return said + _unfinished(table) + _sources(table)


def chosen(choice: Choice) -> str:
    """The chosen values in words.

    >>> chosen(Choice({"training.lr": 0.003}, ["training.lr"]))
    'training.lr = 0.003 (at the edge of the grid)'
    """
    edge = dict.fromkeys(choice.edges, " (at the edge of the grid)")
    return ", ".join(f"{key} = {value}{edge.get(key, '')}" for key, value in choice.values.items())


def marks(entries: Sequence[Entry], column: Column) -> dict[str, str]:
    """By method: `best`, `close` or nothing; upper bounds do not compete."""
    known = {entry.method: entry.number(column) for entry in entries if not entry.bound}
    sign = 1.0 if column.more_is_better else -1.0
    reached = {method: (sign * cell[0], cell[1]) for method, cell in known.items() if cell}
    if len(reached) < 2:
        return {}
    best, deviation = max(reached.values())
    return {
        method: "best" if mean == best else "close" for method, (mean, _) in reached.items() if mean >= best - deviation
    }


def _section(table: Table, data: str) -> Section:
    entries = table.on(data)
    headings, columns = ["method"], [[Cell(_name(entry, table)) for entry in entries]]
    for column in table.columns_on(data):
        found = marks(entries, column)
        headings.append(column.heading)
        columns.append([Cell(_text(entry, column), found.get(entry.method, "")) for entry in entries])
        if any(entry.references(column) for entry in entries):
            headings.append(f"{column.heading} published")
            columns.append([Cell(_reference(entry, column)) for entry in entries])
    return Section(data, headings, list(zip(*columns, strict=True)))


def _name(entry: Entry, table: Table) -> str:
    """The row's name, with the number of its runs where some are missing."""
    runs, wanted = len(entry.results), len(table.seeds)
    return f"{entry.name} ({runs} of {wanted} runs)" if 0 < runs < wanted else entry.name


def _text(entry: Entry, column: Column) -> str:
    failed = entry.failures and not entry.results
    return "failed" if failed else tables.text(entry.number(column), len(entry.results))


def _reference(entry: Entry, column: Column) -> str:
    return "; ".join(f"{number.value:g}" for number in entry.references(column)) or "–"


def _choices(entries: Sequence[Entry]) -> str:
    return "; ".join(f"{entry.method} with {chosen(entry.choice)}" for entry in entries if entry.choice)


def _failures(entry: Entry) -> list[str]:
    where = f"{entry.method} on {entry.data}"
    points = entry.choice.failed if entry.choice else {}
    said = [f"{where}: the point {point} failed: {reason}" for point, reason in points.items()]
    return said + [f"{where}, {run} failed: {reason}" for run, reason in entry.failures.items()]


def _unfinished(table: Table) -> list[str]:
    wanted = len(table.seeds)
    missing = [
        f"{entry.method} on {entry.data} ({wanted - len(entry.results)} of {wanted} runs)"
        for entry in table.entries
        if len(entry.results) < wanted and not entry.failures
    ]
    return [f"Not finished yet: {', '.join(missing)}."] if missing else []


def _sources(table: Table) -> list[str]:
    """Where the published numbers that are shown come from."""
    shown = {
        f"{entry.data}, {column.heading} of {entry.method}: {number.value:g} ({number.source})": None
        for entry in table.entries
        for column in table.columns_on(entry.data)
        for number in entry.references(column)
    }
    said = "Published numbers stand where data set, backbone, tasks, clients and partition are the same: "
    return [said + "; ".join(shown) + "."] if shown else []
