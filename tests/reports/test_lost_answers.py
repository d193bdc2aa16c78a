"""Answers that did not count are told where a person looks: in the line of the round, and on the page."""

from typing import Any

from rich.text import Text

from fedbraid.algebra import ZERO
from fedbraid.core import Event, Outcome, Refusal, Round, State, Task
from fedbraid.reports.console import round_line
from fedbraid.reports.html import render
from fedbraid.reports.records import record

REFUSAL = Refusal("3", "lora_A/[b]x", "finite", "nan (1 of 64 numbers)", "")


def event(**outcome: Any) -> dict[str, Any]:
    return record(Event(4, Round(Task(1, (0, 2, 4)), "train", 2, 0), State(), Outcome(ZERO, **outcome)))


def line(**outcome: Any) -> str:
    told = round_line(event(**outcome), 2)
    return Text.from_markup(told).plain if told else ""


def test_the_line_of_a_round() -> None:
    assert "refused" not in line(reported=("1", "2"))
    assert line(reported=("1",), refused={"3": REFUSAL}).endswith(
        "refused 3: lora_A/[b]x: finite: nan (1 of 64 numbers)"
    )
    both = line(reported=("1",), refused={"3": REFUSAL, "4": REFUSAL}, failed={"2": "no answer within 10 s"})
    assert "refused 3, 4: " in both
    assert both.endswith("failed 2: no answer within 10 s")
    assert line(refused={"3": REFUSAL})
    assert not line()
    assert len(line(failed={"2": "a very long story " * 99})) < 220


def test_the_table_of_the_page() -> None:
    assert "Answers that did not count" not in render({"method": "fedavg"}, [event(reported=("1",))], "")
    events = [event(reported=("1",), refused={"3": REFUSAL}, failed={"<2>": "gone"})]
    page = render({"method": "fedavg"}, events, "")
    assert "Answers that did not count" in page
    assert "refused client 3: lora_A/[b]x: finite: nan (1 of 64 numbers)" in page
    assert "&lt;2&gt;" in page


def test_older_records_have_none() -> None:
    old = {key: value for key, value in event(reported=("1",)).items() if key not in ("refused", "failed")}
    assert round_line(old, 2)
    assert render({"method": "fedavg"}, [old], "")


def test_who_was_refused_in_the_evaluation_is_told_too() -> None:
    test = Outcome(ZERO, reported=("a",), refused={"b": REFUSAL})
    told = record(Event(4, Round(Task(0, (0, 2)), "train", 0, 0), State(), Outcome(ZERO, reported=("1",)), test))
    assert list(told["refused"]) == ["b"]
