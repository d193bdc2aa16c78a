"""The HTML report: one well-formed page without a network, whatever a run has left behind."""

from __future__ import annotations

import json
import random
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from fedbraid.reports.html import render
from fedbraid.reports.html_numbers import best_and_final, bytes_per_client, class_names, steps_of

CONFIG = '# a small run\n[method]\nname = "lorm"\n\n[data]\nname = "digits"\ntasks = 5\n'
VOID = {"meta", "link", "br", "hr", "img", "input"}


def learned_run(tasks=5, width=2, clients=5, rounds=4, tests=36, seed=0):
    """Results and events of a made-up run that learns, forgets a little, and consolidates every task."""
    draw = random.Random(seed)
    people = [str(client) for client in range(clients)]
    events, matrix = [event(0, 0, "start", 0)], []
    settled = [draw.uniform(0.86, 0.99) for _ in range(tasks)]
    for task in range(tasks):
        for index in range(rounds + 1):
            last = index == rounds
            part = 1 - 0.55 * 0.45**index
            shares = [settled[j] * (1 - 0.012 * (task - j) ** 1.2 - 0.05 * (1 - part)) for j in range(task)]
            shares.append(settled[task] * (part if not last else 1.0))
            correct = [min(tests, round(share * tests + draw.uniform(-0.6, 0.6))) for share in shares]
            up, down = (180_000, 24_000) if last else (12_345, 12_345)
            idle = [people[(task + index) % clients]] if draw.random() < 0.2 and clients > 1 else []
            heard = [client for client in people if client not in idle]
            events.append(
                event(len(events), task, "consolidate" if last else "train", 0 if last else index)
                | {"reported": heard, "idle": idle, "correct": correct, "total": [tests] * (task + 1)}
                | {"bytes_up": {c: up + (0 if last else 900 * (int(c) % 3)) for c in heard}}
                | {"bytes_down": dict.fromkeys(heard, down), "seconds": draw.uniform(1.1, 1.9) + 0.1 * task}
                | {"loss": None if last else 1.9 * 0.5**index + 0.08 + draw.uniform(0, 0.05)}
            )
        matrix.append([value / tests for value in correct])
    return results_of(matrix, events, tasks, width, clients, draw), events


def results_of(matrix, events, tasks, width, clients, draw):
    """The results that belong to a matrix and its events."""
    seen = [sum(row) / len(row) for row in matrix]
    drops = [best - final for best, final in best_and_final(matrix).values()]
    names = [[str(width * task + place) for place in range(width)] for task in range(tasks)]
    if width > 5:
        names = [[f"sea otter no {name}" for name in row] for row in names]
    samples = {str(c): [round(draw.gammavariate(1.2, 120)) for _ in range(tasks)] for c in range(clients)}
    return {
        "method": "lorm",
        "data": "digits" if width <= 5 else "imagenet-r",
        "backbone": "tiny" if width <= 5 else "vit_base_patch16_224",
        "seed": 0,
        "clients": clients,
        "tasks": tasks,
        "task_classes": names,
        "faa": seen[-1],
        "aia": sum(seen) / len(seen),
        "forgetting": sum(drops) / len(drops) if drops else 0.0,
        "task_mean_accuracy": seen[-1],
        "accuracy_matrix": matrix,
        "accuracy_by_task": seen,
        "bytes_up_per_client": bytes_per_client(events, "bytes_up"),
        "bytes_down_per_client": bytes_per_client(events, "bytes_down"),
        "seconds": sum(event["seconds"] for event in events),
        "peak_rss_bytes": 812_345_678,
        "state_sha256": "3f9c" * 16,
        "partition": {"kind": "dirichlet", "beta": 0.5, "samples": samples},
        "environment": {"python": "3.11.9", "torch": "2.13.0+cpu", "platform": "Linux x86_64", "threads": 2},
        "notes": ["Client 3 was idle in two rounds.", "Every client counts its own test samples."],
    }


def event(number, task, phase, index):
    """An event without clients and without an evaluation."""
    sent = {"reported": [], "idle": [], "bytes_up": {}, "bytes_down": {}, "seconds": 0.02}
    unknown = dict.fromkeys(("loss", "correct", "total"))
    return {"event": number, "task": task, "phase": phase, "round": index} | sent | unknown


def joint_run(rounds=6, tasks=5):
    """The centralised method: all tasks at once, a matrix of one row."""
    results, _ = learned_run(tasks=tasks, clients=1)
    events = [event(0, 0, "start", 0)]
    for index in range(rounds):
        correct = [round(36 * (0.97 - 0.01 * j) * (1 - 0.6 * 0.4**index)) for j in range(tasks)]
        told = {"reported": ["0"], "correct": correct, "total": [36] * tasks, "loss": 1.7 * 0.6**index}
        sent = {"bytes_up": {"0": 0}, "bytes_down": {"0": 0}, "seconds": 4.2}
        events.append(event(index + 1, 0, "train", index) | told | sent)
    row = [value / 36 for value in correct]
    changed = {
        "method": "joint",
        "accuracy_matrix": [row],
        "forgetting": 0.0,
        "clients": 1,
        "faa": sum(row) / tasks,
    }
    spent = {"seconds": 25.2, "bytes_up_per_client": 0, "bytes_down_per_client": 0}
    return {**results, **changed, **spent, "aia": sum(row) / tasks}, events


def unfinished_run(events=1):
    """A run that was stopped after a few events."""
    results, told = learned_run()
    kept = (
        "method",
        "data",
        "backbone",
        "seed",
        "clients",
        "tasks",
        "task_classes",
        "partition",
        "environment",
    )
    return {**{key: results[key] for key in kept}, "finished": False, "accuracy_matrix": []}, told[1 : events + 1]


WORLDS = {
    "five tasks": learned_run(),
    "ten tasks": learned_run(tasks=10, width=20, clients=30, rounds=5, tests=600, seed=3),
    "twenty tasks": learned_run(tasks=20, clients=100, rounds=9, tests=500, seed=1),
    "joint": joint_run(),
    "one task": learned_run(tasks=1),
    "one event": unfinished_run(1),
    "some events": unfinished_run(12),
    "zero events": unfinished_run(0),
    "no events kept": (learned_run()[0], []),
    "bare": ({"method": "fedavg", "accuracy_matrix": [[0.5]]}, []),
    "nothing": ({"method": "fedavg", "accuracy_matrix": []}, []),
}


class Outline(HTMLParser):
    """Checks that tags nest; collects attributes, ids and text."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.ids, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def outline(page):
    """The parsed page, which must nest and close."""
    parser = Outline()
    parser.feed(page)
    assert parser.open == []
    return parser


@pytest.fixture(params=sorted(WORLDS))
def world(request):
    return WORLDS[request.param]


def test_page_is_well_formed_and_its_ids_are_unique(world):
    page = outline(render(*world, CONFIG))
    assert len(page.ids) == len(set(page.ids))


def test_every_drawing_is_xml_with_a_title_and_a_description(world):
    drawings = re.findall(r"<svg.*?</svg>", render(*world, CONFIG), re.DOTALL)
    for drawing in map(ET.fromstring, drawings):
        assert [node.tag for node in drawing[:2]] == ["title", "desc"]
        assert all(node.text for node in drawing[:2])
        assert drawing.get("aria-labelledby") == f"{drawing[0].get('id')} {drawing[1].get('id')}"


def test_no_coordinate_is_lost(world):
    page = render(*world, CONFIG)
    assert not re.search(r'"[^"]*\b(nan|inf|None)\b[^"]*"', page)


def test_page_needs_nothing_else(world):
    page = render(*world, CONFIG)
    assert not [word for word in ("http:", "https:", "@import", "url(") if word in page]
    assert not {"src", "href", "srcset"} & {name for name, _ in outline(page).attributes}


def test_equal_input_gives_equal_bytes(world):
    results, events = json.loads(json.dumps(world))
    assert render(results, events, CONFIG) == render(*world, CONFIG)


def test_everything_written_by_others_is_escaped():
    results, events = learned_run()
    evil = '<script>alert("x")</script>&\x00'
    results |= dict.fromkeys(("method", "data", "backbone", "seed", "state_sha256"), evil)
    results |= {"notes": [evil], "environment": {evil: evil}, "task_classes": [[evil, "ok"]] * 5}
    results["partition"] = {"kind": evil, "samples": {evil: [1, 2, 3, 4, 5]}}
    page = render(results, [{**one, "phase": evil} for one in events], evil)
    outline(page)
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(&quot;x&quot;)" in page
    assert "\x00" not in page


def test_headline_numbers_are_those_of_the_results():
    results, events = learned_run()
    results |= {"faa": 0.91261, "aia": 0.9549, "forgetting": 0.0312, "seconds": 192.4}
    results |= {"bytes_up_per_client": 1_234_567, "bytes_down_per_client": 45_678}
    page = outline(render(results, events, CONFIG))
    for shown in ("91.3%", "95.5%", "3.1%", "1.23 MB", "45.7 kB", "3 min 12 s", "812 MB", "3f9c" * 16):
        assert shown in page.text


def test_matrix_is_printed_cell_by_cell():
    results, events = learned_run()
    drawing = re.search(r"<svg[^>]*accuracy-matrix-492.*?</svg>", render(results, events, CONFIG), re.DOTALL)
    texts = [text.text for text in ET.fromstring(drawing[0]).iter("text") if "share" in text.get("class", "")]
    assert texts == [f"{100 * value:.1f}" for row in results["accuracy_matrix"] for value in row]


def test_convergence_starts_each_task_line_with_its_task():
    results, events = learned_run()
    drawing = re.search(r"<svg[^>]*accuracy-over-the-run-1040.*?</svg>", render(results, events, CONFIG), re.DOTALL)
    paths = [path.get("d") for path in ET.fromstring(drawing[0]).iter("path") if "line" in path.get("class").split()]
    assert [path.count("L") + 1 for path in paths] == [25, 20, 15, 10, 5, 25]


def test_forgetting_is_best_earlier_minus_final():
    results, _ = learned_run()
    results["accuracy_matrix"] = [[0.9], [0.95, 0.8], [0.7, 0.85, 0.9]]
    page = "".join(outline(render(results, [], CONFIG)).text)
    assert "95.0% → 70.0%" in page
    assert "80.0% → 85.0%" in page
    assert "-5.0%" in page


def test_unfinished_run_says_so():
    page = "".join(outline(render(*unfinished_run(12), CONFIG)).text)
    assert "In progress: task 3 of 5, after round 12" in page
    assert "Accuracy so far" in page
    assert "In progress" not in render(*learned_run(), CONFIG)


def test_matrix_of_an_unfinished_run_is_that_of_its_events():
    results, events = unfinished_run(12)
    last = next(one for one in reversed(events) if one["correct"])
    page = render(results, events, CONFIG)
    assert f"{100 * last['correct'][0] / last['total'][0]:.1f}" in page


def test_configuration_is_printed_in_full():
    page = "".join(outline(render(*learned_run(), CONFIG)).text)
    assert CONFIG.strip() in page


def test_events_without_clients_have_no_place_on_the_axis():
    _, events = learned_run()
    steps = steps_of(events)
    assert len(steps) == len(events) - 1
    assert [step.place for step in steps] == list(range(1, 26))
    assert steps[4].phase == "consolidate"
    assert steps[4].loss is None


def test_values_that_are_no_numbers_are_unknown():
    results, events = learned_run()
    broken = [{**one, "loss": float("nan"), "seconds": None} for one in events]
    page = render({**results, "faa": float("nan")}, broken, CONFIG)
    assert "No training loss was recorded." in page
    assert "nan" not in "".join(outline(page).text)


def test_many_class_names_are_shortened():
    assert class_names([f"class {n}" for n in range(20)], most=4) == "class 0, class 1, … (16 more), class 18, class 19"
    assert len(class_names(["x" * 500])) == 32
