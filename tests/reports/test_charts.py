"""The charts: round axes, labels that give way, marks where the numbers are."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbraid.reports.chart_frame import Frame, clean, dodge, fit, number, ticks
from fedbraid.reports.charts import Bar, Column, Line, Part, bar_rows, column_chart, heat_map, line_chart

WORDS = {"title": "Some <chart>", "description": 'What & "why"'}
VALUES = st.floats(-1e9, 1e9, allow_nan=False)


def drawing(chart):
    """The parsed chart, which must be XML."""
    return ET.fromstring(chart)


def texts(chart):
    """All printed words of a chart, in order."""
    return ["".join(node.itertext()) for node in drawing(chart).iter("text")]


def lines_over_rounds(lines, **changes):
    options = {"width": 500, "height": 300, "steps": 4, "show": str, **WORDS, **changes}
    return line_chart(lines, **options)


@given(VALUES, VALUES, st.integers(1, 9))
def test_ticks_enclose_the_range_and_are_few(one, other, count):
    low, high = min(one, other), max(one, other)
    marks = ticks(low, high, count)
    slack = 1e-6 * max(abs(low), abs(high), 1.0)
    assert marks[0] <= low + slack
    assert marks[-1] >= high - slack
    assert len(marks) <= count + 3
    assert all(a < b for a, b in itertools.pairwise(marks))


@given(st.integers(1, 5000))
def test_whole_ticks_are_integers(last):
    assert all(mark == int(mark) for mark in ticks(1, last, whole=True))


def test_ticks_of_one_value_still_span_something():
    assert len(ticks(3.0, 3.0)) > 1
    assert len(ticks(0.0, 0.0)) > 1


@given(st.lists(st.floats(0, 300), min_size=1, max_size=20))
def test_dodged_places_keep_their_distance_and_order(wanted):
    places = dodge(wanted, 15, 0, 300)
    ordered = [place for _, place in sorted(zip(wanted, places, strict=True))]
    assert all(after - before >= 15 - 1e-9 for before, after in itertools.pairwise(sorted(places)))
    assert min(places) >= -1e-9
    assert max(places) <= 300 + 1e-9
    assert sorted(ordered) == pytest.approx(sorted(places))


def test_places_that_do_not_collide_stay():
    assert dodge([100, 20, 60], 15, 0, 300) == [100, 20, 60]


def test_names_are_shortened_then_thinned():
    names, short = [f"task {n}" for n in range(1, 9)], [str(n) for n in range(1, 9)]
    assert fit(names, short, 100) == names
    assert fit(names, short, 20) == short
    assert fit(names, short, 8) == ["1", "", "3", "", "5", "", "7", ""]


def test_coordinates_have_one_decimal_and_no_negative_zero():
    assert [number(v) for v in (1.0, 2.26, -0.04, -3.5)] == ["1", "2.3", "0", "-3.5"]


def test_frame_maps_its_corners():
    frame = Frame(200, 100, 20, 10, 5, 15, (0, 4), (0.0, 2.0))
    assert (frame.x(0), frame.x(4)) == (20, 190)
    assert (frame.y(0), frame.y(2)) == (85, 5)


@pytest.mark.parametrize("text", ["<b>", "a & b", '"', "'", "\x00\x1b", "\ud800", "\ufffe", "日本語 👩‍🔬"])
def test_any_text_becomes_xml(text):
    again = ET.fromstring(f'<a b="{clean(text)}">{clean(text)}</a>')
    assert again.text == again.get("b")
    assert clean(text).encode("utf-8")


def test_line_goes_through_its_points_and_stops_at_gaps():
    line = Line("up", "3", [(1, 0.0), (2, 10.0), (3, None), (4, 5.0)], "up")
    root = drawing(lines_over_rounds([line], low=0.0))
    (path,) = [node.get("d") for node in root.iter("path") if node.get("class") == "line up"]
    assert path.count("L") == 1
    assert [node.get("class") for node in root.iter("circle")] == ["lone up"]


def test_label_of_a_line_stands_at_its_end():
    shown = texts(lines_over_rounds([Line("up", "3 kB", [(1, 1.0), (4, 2.0)], "up")]))
    assert "up3 kB" in shown
    assert "communication round" in shown


def test_many_line_labels_are_thinned_but_the_main_one_stays():
    lines = [Line(f"task {n}", "", [(1, n), (4, n)], "task", n / 60) for n in range(60)]
    shown = texts(lines_over_rounds([*lines, Line("all seen", "9%", [(1, 3), (4, 3)], "main")]))
    assert "all seen9%" in shown
    assert 3 < sum(name.startswith("task") for name in shown) < 20


def test_steps_are_as_wide_as_a_round():
    line = Line("up", "", [(1, 1.0), (2, 4.0)], "up", spread=[(1, 0.5, 2.0), (2, 4.0, 4.0)])
    root = drawing(lines_over_rounds([line], steps=2, low=0.0, stepped=True))
    (path,) = [node.get("d") for node in root.iter("path") if node.get("class") == "line up"]
    assert path.count("H") == 2
    assert len([node for node in root.iter("rect") if node.get("class") == "spread up"]) == 1


def heat(rows, width=500):
    names = [str(place) for place in range(max(map(len, rows)))]
    options = {"row_names": names[: len(rows)] or ["0"], "column_names": names, "short_names": names}
    return heat_map(rows, tip=lambda i, j: f"{i} <{j}>", width=width, **options, **WORDS)


def test_heat_map_prints_every_known_cell_and_leaves_the_rest_out():
    root = drawing(heat([[0.5], [None, 0.875]]))
    cells = [node for node in root.iter("rect") if node.get("class") == "cell"]
    assert [cell[0].text for cell in cells] == ["0 <0>", "1 <1>"]
    assert [node.text for node in root.iter("text") if "share" in node.get("class", "")] == ["50.0", "87.5"]


def test_heat_map_deepens_with_the_value():
    root = drawing(heat([[0.1, 0.5, 0.9]]))
    tints = [float(n.get("fill-opacity")) for n in root.iter("rect") if n.get("class") == "cell"]
    assert tints == sorted(tints)
    assert tints[0] < tints[-1]


def test_heat_map_with_many_columns_prints_no_numbers():
    root = drawing(heat([[0.5] * 40]))
    assert not [node for node in root.iter("text") if "share" in node.get("class", "")]


def test_bars_of_either_sign_start_at_zero():
    bars = [Bar("a", 0.1, "10%", "x", ""), Bar("b", -0.05, "-5%", "y", "")]
    root = drawing(bar_rows(bars, width=400, **WORDS))
    loss, gain = (next(n for n in root.iter("rect") if n.get("class") == kind) for kind in ("bar-loss", "bar-gain"))
    assert float(gain.get("x")) + float(gain.get("width")) == pytest.approx(float(loss.get("x")), abs=0.11)
    assert float(loss.get("width")) == pytest.approx(2 * float(gain.get("width")), abs=0.2)


def test_bars_of_no_size_are_drawn():
    assert "0.0%" in texts(bar_rows([Bar("a", 0.0, "0.0%", "", "")], width=400, **WORDS))


def test_columns_stack_to_their_sums():
    columns = [Column("7", [1, 3], "t"), Column("8", [0, 2], "u")]
    parts = [Part("task 1", "1", 0.0), Part("task 2", "5", 1.0)]
    options = {"width": 500, "height": 270, "show": str, "label": "client", "named": True, **WORDS}
    root = drawing(column_chart(columns, parts, **options))
    tall = [float(n.get("height")) for n in root.iter("rect") if "column" in n.get("class")]
    assert len(tall) == 3
    assert tall[1] == pytest.approx(3 * tall[0], abs=0.2)
    assert {"7", "8", "client"} <= {"".join(n.itertext()) for n in root.iter("text")}
