"""The table as LaTeX with booktabs: one group of columns a data set, one row a method."""

from __future__ import annotations

from collections.abc import Sequence

from fedbraid.reports.table import Cell, Section, Table, notes, sections

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "–": "--",
} | {letter: f"\\{letter}" for letter in "&%$#_{}"}

_LEGEND = (
    r"\textbf{Bold}: the best mean of a column; \underline{underlined}: within one deviation of it. "
    "Upper bounds do not compete."
)


def latex(table: Table) -> str:
    """A `table` environment; a document that includes it uses the package booktabs."""
    found = sections(table)
    groups = [f"\\multicolumn{{{len(s.headings) - 1}}}{{c}}{{{escaped(s.data)}}}" for s in found]
    heads = [escaped(heading) for section in found for heading in section.headings[1:]]
    lines = [
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{escaped(table.title)}}}",
        f"\\begin{{tabular}}{{l{'r' * len(heads)}}}",
        r"\toprule",
        _row(["", *groups]),
        " ".join(_rules(found)),
        _row(["method", *heads]),
        r"\midrule",
        *_body(found),
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip\footnotesize\raggedright",
        *[f"{note}\\par" for note in [_LEGEND, *map(escaped, notes(table))]],
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    r"""The text as LaTeX prints it.

    >>> print(escaped("50 % of a_b"))
    50 \% of a\_b
    """
    return "".join(_SPECIAL.get(letter, letter) for letter in " ".join(text.split()))


def _rules(found: Sequence[Section]) -> list[str]:
    """A line under each data set's name, as wide as its columns."""
    rules, start = list[str](), 2
    for section in found:
        stop = start + len(section.headings) - 2
        rules.append(f"\\cmidrule(lr){{{start}-{stop}}}")
        start = stop + 1
    return rules


def _body(found: Sequence[Section]) -> list[str]:
    """One line a method; every data set has the same methods in the same order."""
    return [
        _row([escaped(parts[0][0].text), *(_marked(cell) for part in parts for cell in part[1:])])
        for parts in zip(*(section.rows for section in found), strict=True)
    ]


def _row(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _marked(cell: Cell) -> str:
    command = {"best": "\\textbf", "close": "\\underline"}.get(cell.mark)
    return f"{command}{{{escaped(cell.text)}}}" if command else escaped(cell.text)
