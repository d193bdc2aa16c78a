"""The table's outputs: which cell is marked, and that Markdown, CSV, LaTeX and HTML say the same."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ET

import pytest

from fedbraid.reports.published import Published, Setting, comparable, published
from fedbraid.reports.table import COLUMNS, Choice, Entry, Table, marks, notes
from fedbraid.reports.table_charts import Dot, dot_rows
from fedbraid.reports.table_html import render
from fedbraid.reports.table_latex import latex
from fedbraid.reports.table_text import csv_text, markdown

VIT = "timm:vit_base_patch16_224.augreg_in21k"
LORM = Setting("lorm", "CIFAR-100", VIT, 10, 10, "dirichlet", 0.5)


def result(faa, megabytes=1.5):
    """The results of a run of two tasks."""
    costs = {"bytes_up_per_client": 1e6 * megabytes, "bytes_down_per_client": 1e6, "seconds": 12.0}
    return {"faa": faa, "aia": faa, "forgetting": 0.1, "accuracy_by_task": [0.9, faa], "tasks": 2, **costs}


def entry(method, *faa, **more):
    return Entry("a_b & c", method, {seed: result(value) for seed, value in enumerate(faa)}, **more)


def table(*entries, columns=("faa", "bytes_up_per_client"), seeds=(0, 1)):
    return Table("50 % <of> it", seeds, [COLUMNS[key] for key in columns], entries, ["Chosen somehow."])


WHOLE = table(
    Entry("a_b & c", "Joint", {0: result(0.95), 1: result(0.97)}, bound=True),
    entry(
        "LoRM",
        0.8,
        0.9,
        choice=Choice({"training.lr": 0.003}, ["training.lr"]),
        published=[Published("LoRM slides", LORM, "faa", 86.95)],
    ),
    entry("Fed|IT", 0.83, 0.83),
    entry("FedAvg", 0.5, failures={"seed 1": "loss is not finite"}),
    entry("TIES", failures={"seed 0": "no"}, choice=Choice({}, failed={"training.lr=1": "too fast"})),
)

MARKDOWN = r"""# 50 % \<of\> it

## a\_b & c

| method | FAA | FAA published | MB up |
| --- | ---: | ---: | ---: |
| Joint (upper bound) | 96.0 ± 1.4 | – | – |
| LoRM | **85.0 ± 7.1** | 86.95 | **1.5 ± 0.0** |
| Fed\|IT | _83.0 ± 0.0_ | – | **1.5 ± 0.0** |
| FedAvg (1 of 2 runs) | 50.0 | – | **1.5** |
| TIES | failed | – | failed |
"""

CSV = """data,method,metric,unit,n,failed,mean,sd,published,source,chosen
a_b & c,Joint,faa,%,2,0,96.0,1.414214,,,
a_b & c,Joint,bytes_up_per_client,MB,2,0,,,,,
a_b & c,LoRM,faa,%,2,0,85.0,7.071068,86.95,LoRM slides,training.lr = 0.003 (at the edge of the grid)
a_b & c,LoRM,bytes_up_per_client,MB,2,0,1.5,0.0,,,training.lr = 0.003 (at the edge of the grid)
"""

LATEX = r"""\begin{table}
\centering
\caption{50 \% \textless{}of\textgreater{} it}
\begin{tabular}{lrrr}
\toprule
 & \multicolumn{3}{c}{a\_b \& c} \\
\cmidrule(lr){2-4}
method & FAA & FAA published & MB up \\
\midrule
Joint (upper bound) & 96.0 $\pm$ 1.4 & -- & -- \\
LoRM & \textbf{85.0 $\pm$ 7.1} & 86.95 & \textbf{1.5 $\pm$ 0.0} \\
"""


def test_markdown_is_one_table_a_data_set_and_the_notes():
    text = markdown(WHOLE)
    assert text.startswith(MARKDOWN)
    assert "\n- LoRM slides" not in text
    assert "- FedAvg on a\\_b & c, seed 1 failed: loss is not finite\n" in text


def test_csv_has_a_row_for_each_data_set_method_and_metric():
    text = csv_text(WHOLE)
    assert text.startswith(CSV)
    assert len(list(csv.DictReader(text.splitlines()))) == 10


def test_latex_escapes_what_is_special():
    text = latex(WHOLE)
    assert text.startswith(LATEX)
    assert r"Fed|IT & \underline{83.0 $\pm$ 0.0}" in text
    assert text.count("{") == text.count("}")


def test_latex_puts_data_sets_side_by_side():
    again = [Entry("other", one.method, one.results) for one in WHOLE.entries]
    text = latex(table(*WHOLE.entries, *again))
    assert r"\cmidrule(lr){2-4} \cmidrule(lr){5-6}" in text
    assert r" & \multicolumn{3}{c}{a\_b \& c} & \multicolumn{2}{c}{other} \\" in text
    assert len(re.findall(r"^LoRM & ", text, re.MULTILINE)) == 1


def test_the_best_is_marked_and_what_lies_within_its_deviation():
    found = marks([entry("a", 0.8, 0.9), entry("b", 0.79, 0.79), entry("c", 0.7, 0.7)], COLUMNS["faa"])
    assert found == {"a": "best", "b": "close"}


def test_less_is_better_for_costs_and_forgetting():
    entries = [Entry("d", "a", {0: result(0.5, 3)}), Entry("d", "b", {0: result(0.5, 2)})]
    assert marks(entries, COLUMNS["bytes_up_per_client"]) == {"b": "best"}


def test_an_upper_bound_and_a_lone_method_are_not_best():
    assert marks([entry("a", 0.5, 0.5), entry("b", 0.9, 0.9, bound=True)], COLUMNS["faa"]) == {}


def test_notes_name_choices_edges_failures_and_sources():
    said = "\n".join(notes(WHOLE))
    for words in (
        "Mean ± sample deviation over the seeds 0, 1.",
        "Chosen somehow.",
        "Chosen on a_b & c: LoRM with training.lr = 0.003 (at the edge of the grid)",
        "TIES on a_b & c: the point training.lr=1 failed: too fast",
        "TIES on a_b & c, seed 0 failed: no",
        "a_b & c, FAA of LoRM: 86.95 (LoRM slides)",
    ):
        assert words in said
    assert "Not finished yet" not in said


def test_notes_say_what_is_unfinished():
    assert "Not finished yet: a on a_b & c (1 of 2 runs), b on a_b & c (2 of 2 runs)." in notes(
        table(entry("a", 0.5), entry("b"))
    )


@pytest.mark.parametrize("whole", [WHOLE, table(entry("a")), table(entry("a", 0.5), entry("b", 0.4), seeds=(0,))])
def test_the_page_is_whole_and_its_drawings_are_xml(whole):
    page = render(whole)
    assert "50 % &lt;of&gt; it" in page
    assert "<of>" not in page
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert all(ET.fromstring(drawing)[0].text for drawing in drawings)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert not re.search(r'"[^"]*\b(nan|inf|None)\b[^"]*"', page)
    assert not [word for word in ("http:", "https:", "@import", "url(") if word in page]


def test_the_page_shows_the_table_with_its_marks():
    page = render(WHOLE)
    assert '<th scope="row">LoRM</th><td class="figure"><b>85.0 ± 7.1</b></td><td class="figure">86.95</td>' in page
    assert '<td class="figure"><u>83.0 ± 0.0</u></td>' in page
    assert "7 of 10 runs have finished" in page


def test_dots_lie_on_their_values_and_whiskers_reach_one_deviation():
    dots = [Dot("a", 0.5, 0.1, [0.4, 0.6], [0.8], "50%"), Dot("b", None, 0.0, [], [], "failed")]
    words = {"title": "t", "description": "d", "width": 400.0, "show": str, "low": 0.0}
    root = ET.fromstring(dot_rows(dots, **words))
    (mean,) = [node for node in root.iter("circle") if "dot" in node.get("class")]
    singles = [float(node.get("cx")) for node in root.iter("circle") if node.get("class") == "single"]
    (whisker,) = [node for node in root.iter("line") if node.get("class") == "whisker"]
    assert float(mean.get("cx")) == pytest.approx(sum(singles) / 2, abs=0.2)
    assert [float(whisker.get("x1")), float(whisker.get("x2"))] == pytest.approx(singles, abs=0.2)
    assert "failed" in {node.text for node in root.iter("text")}


def test_published_numbers_are_found_by_the_setting():
    assert [number.value for number in comparable(LORM)] == [86.95, 87.59]
    ours = Setting("lorm", "imagenet-r", f"{VIT}@/weights/vit.safetensors", 10, 10, "dirichlet", 0.5)
    assert [(number.metric, number.value) for number in comparable(ours)] == [("faa", 72.48)]


@pytest.mark.parametrize(
    "change",
    [
        {"method": "fedit"},
        {"backbone": "tiny"},
        {"tasks": 5},
        {"clients": 9},
        {"partition": "quantity"},
        {"parameter": 1.0},
        {"parameter": None},
    ],
)
def test_another_setting_has_no_published_number(change):
    assert comparable(Setting(**(vars(LORM) | change))) == ()


def test_what_a_source_does_not_state_equals_nothing():
    unstated = [number for number in published() if number.setting.parameter is None]
    assert unstated
    assert all(comparable(number.setting, [number]) == () for number in unstated)
