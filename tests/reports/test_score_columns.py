"""Tables of data sets with scores of their own: what "score" means on each, and numbers without accuracy."""

from __future__ import annotations

import csv

import pytest

from fedbraid.reports import tables
from fedbraid.reports.table import COLUMNS, Entry, Table, marks, notes, sections
from fedbraid.reports.table_html import render
from fedbraid.reports.table_latex import latex
from fedbraid.reports.table_screen import cell_line
from fedbraid.reports.table_text import csv_text

COSTS = {"bytes_up_per_client": 1e6, "bytes_down_per_client": 1e6, "seconds": 9.0, "tasks": 1}


def told(**scores):
    """The results of a run that is measured by these scores, the first being the main one."""
    counted = {"faa": scores["accuracy"], "aia": scores["accuracy"], "forgetting": 0.0} if "accuracy" in scores else {}
    counted |= {"accuracy_by_task": [scores["accuracy"]]} if counted else {}
    main = next(iter(scores.values()))
    return {**COSTS, **counted, "scores": scores, "best_scores": scores, "score": main, "best_score": main}


def made(*entries, columns=("score", "f1", "seconds")):
    return Table("GLUE", (0,), [COLUMNS[key] for key in columns], entries)


WHOLE = made(
    Entry("MRPC", "FedEx", {0: told(accuracy=0.8, f1=0.86)}),
    Entry("MRPC", "FedIT", {0: told(accuracy=0.7, f1=0.9)}),
    Entry("STS-B", "FedEx", {0: told(pearson=0.85, spearman=0.84)}),
    Entry("STS-B", "FedIT", {0: told(pearson=0.8, spearman=0.8)}),
    Entry("E2E", "FedEx", {0: told(perplexity=3.0)}),
    Entry("E2E", "FedIT", {0: told(perplexity=2.0)}),
)


def test_the_main_score_is_named_on_every_data_set():
    found = {section.data: section for section in sections(WHOLE)}
    assert [found[data].headings[1] for data in ("MRPC", "STS-B", "E2E")] == ["accuracy", "Pearson", "perplexity"]
    rows = {data: [(cell.text, cell.mark) for cell in section.rows[0][1:3]] for data, section in found.items()}
    assert rows["MRPC"] == [("80.0", "best"), ("86.0", "")]
    assert rows["STS-B"] == [("85.0", "best"), ("–", "")]
    assert rows["E2E"] == [("3.0", ""), ("–", "")]
    assert "accuracy, F1, Pearson times 100." in notes(WHOLE)


def test_less_is_better_for_what_is_lost():
    entries = WHOLE.on("E2E")
    assert marks(entries, COLUMNS["perplexity"]) == {"FedIT": "best"}


def test_every_form_can_be_written():
    rows = list(csv.DictReader(csv_text(WHOLE).splitlines()))
    assert [row["unit"] for row in rows if row["method"] == "FedEx" and row["metric"] == "score"] == [
        "x 100",
        "x 100",
        "x 1",
    ]
    assert "Pearson" in latex(WHOLE)
    page = render(WHOLE)
    numbers = page[page.index("STS-B</h2>") : page.index("E2E</h2>")]
    assert "Pearson on STS-B" in numbers
    assert "FAA" not in numbers
    assert "Accuracy over tasks" not in numbers
    assert "Accuracy over tasks on MRPC" in page


def test_a_finished_cell_shows_the_main_score():
    record = {"score_name": "pearson", "score": 0.85, "seconds": 1.0}
    assert "Pearson [bold]85.0[/]" in cell_line("a cell", None, record)
    assert "FAA [bold]80.0%[/]" in cell_line("a cell", None, {"score_name": "accuracy", "faa": 0.8, "seconds": 1.0})


def test_runs_side_by_side_are_ordered_by_their_main_score():
    config = {"method": {"name": "fedit"}, "training": {"lr": 0.1}}
    runs = [(config | {"training": {"lr": rate}}, told(pearson=value)) for rate, value in ((0.1, 0.5), (0.2, 0.7))]
    columns = tables.columns_of([results for _, results in runs])
    assert [heading for _, heading, _ in columns][:2] == ["Pearson", "MB up"]
    rows = tables.rows(runs, columns)
    assert [row.label for row in rows] == ["fedit lr=0.2", "fedit lr=0.1"]
    assert rows[0].cells[0] == (pytest.approx(70.0), 0.0)
    worst = [(config | {"training": {"lr": rate}}, told(perplexity=value)) for rate, value in ((0.1, 5.0), (0.2, 7.0))]
    assert tables.rows(worst)[0].label == "fedit lr=0.1"
