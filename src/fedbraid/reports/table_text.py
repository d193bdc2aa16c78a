"""The table as Markdown, as CSV, and as records, one for each data set, method and metric."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from fedbraid.reports.table import Cell, Column, Entry, Section, Table, chosen, notes, sections

_FIELDS = ("data", "method", "metric", "unit", "n", "failed", "mean", "sd", "published", "source", "chosen")


def markdown(table: Table) -> str:
    """The whole table as a Markdown document: a section a data set, then the notes."""
    parts = [f"# {_escaped(table.title)}", *map(_section, sections(table))]
    legend = "**Bold**: the best mean of a column; _italic_: within one deviation of it. Upper bounds do not compete."
    parts.append("\n".join(f"- {note}" for note in [legend, *map(_escaped, notes(table))]))
    return "\n\n".join(parts) + "\n"


def records(table: Table) -> list[dict[str, Any]]:
    """One record for each data set, method and metric; numbers in the unit that is named."""
    return [_record(entry, column) for entry in table.entries for column in table.columns_on(entry.data)]


def csv_text(table: Table) -> str:
    """The records as CSV, what is unknown empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_FIELDS)
    writer.writerows(values.values() for values in records(table))
    return text.getvalue()


def _record(entry: Entry, column: Column) -> dict[str, Any]:
    number, references = entry.number(column), entry.references(column)
    values = (
        entry.data,
        entry.method,
        column.key,
        column.measure,
        len(entry.results),
        len(entry.failures),
        round(number[0], 6) if number else None,
        round(number[1], 6) if number and len(entry.results) > 1 else None,
        "; ".join(f"{reference.value:g}" for reference in references) or None,
        "; ".join(reference.source for reference in references) or None,
        chosen(entry.choice) if entry.choice else None,
    )
    return dict(zip(_FIELDS, values, strict=True))


def _section(section: Section) -> str:
    sides = ["---", *["---:"] * (len(section.headings) - 1)]
    rows = [map(_escaped, section.headings), sides, *(map(_marked, row) for row in section.rows)]
    return f"## {_escaped(section.data)}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _marked(cell: Cell) -> str:
    around = {"best": "**", "close": "_", "": ""}[cell.mark]
    return f"{around}{_escaped(cell.text)}{around}"


def _escaped(text: str) -> str:
    r"""The text as Markdown shows it, on one line.

    >>> print(_escaped("a|b_c"))
    a\|b\_c
    """
    return re.sub(r"([\\`*_|<>\[\]#])", r"\\\1", " ".join(text.split()))
