"""Health signs and the deviation report, on records made by hand."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from rich.text import Text

from fedbraid.reports.console_health import health_lines
from fedbraid.reports.deviations import deviations, layers_of, measures
from fedbraid.reports.health import Thresholds, by_kind, judged, signs
from fedbraid.reports.html import render

MEANS = {"low_rank": {"both": True, "exact": False, "own_merge": False}}
VIT = [f"vit.blocks.{block}.{part}" for block in range(12) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]


def trained(task, index, deviation=None, correct=None, sent=(), **more):
    """A training round: what averaging lost by layer, right answers of ten by task, numbers sent by client."""
    clients = [str(client) for client in range(len(sent) or 2)]
    return {
        "event": 2 * task + index,
        "task": task,
        "phase": "train",
        "round": index,
        "reported": clients,
        "idle": [],
        "bytes_up": dict.fromkeys(clients, 100),
        "bytes_down": dict.fromkeys(clients, 100),
        "seconds": 1.0,
        "test_seconds": 0.0,
        "values_up": dict(zip(clients, sent, strict=True)) if sent else {},
        "loss": 1.0,
        "deviation": deviation or {},
        "correct": correct,
        "total": [10] * len(correct) if correct else None,
        **more,
    }


NOISY = [
    trained(0, 0, {"fc1": [2e-3, 0.50], "fc2": [1e-3, 0.10]}),
    trained(0, 1, {"fc1": [1e-3, 0.30], "fc2": [1e-3, 0.10]}),
]
FALLING = [
    trained(0, 0, correct=[9]),
    trained(1, 0, correct=[4, 8]),
    trained(1, 1, correct=[8, 9]),
    trained(2, 0, correct=[7, 8, 5]),
    trained(2, 1, correct=[2, 6, 9]),
]
SENDING = [trained(0, 0, sent=(100, 300)), trained(0, 1, sent=(500, 700)), trained(1, 0, sent=(400, 500))]


def judge(results, events, **thresholds):
    return results | measures(events) | {"health": judged(results, events, Thresholds(**thresholds))}


def words(page):
    """What is written on a page, outside of its drawings."""
    page = re.sub(r"<svg.*?</svg>|<style>.*?</style>|<script>.*?</script>", " ", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", "", page).replace("&#x27;", "'").split())


def test_noise_names_its_worst_place_and_how_often():
    (sign,) = signs(MEANS, NOISY, Thresholds(noise=0.2))
    assert (sign.kind, sign.value, sign.threshold) == ("noise", 0.5, 0.2)
    assert (sign.task, sign.phase, sign.round, sign.layer) == (0, "train", 0, "fc1")
    assert "lost 50.0% of the mean update of fc1" in sign.seen
    assert "Of 4 values, one a layer and round, 2 are above 20%" in sign.seen
    assert "fedex_lora" in sign.advice
    assert not signs(MEANS, NOISY, Thresholds(noise=0.5))


@pytest.mark.parametrize("kind", ["exact", "own_merge", None])
def test_noise_is_no_sign_where_nothing_of_it_is_lost(kind):
    results = {"low_rank": MEANS["low_rank"] | {kind: True}} if kind else {}
    assert signs(results, NOISY, Thresholds()) == []
    assert judged(results, NOISY, Thresholds())["largest"] == {}


@pytest.mark.parametrize(
    ("lost", "said"), [(4.0, "4.0 points are lost without it"), (-1.0, "nothing is lost without it here")]
)
def test_noise_says_what_the_residual_is_worth(lost, said):
    against = {"run": "b", "score": "FAA", "with": 80.0 + lost, "without": 80.0, "lost": lost}
    (sign,) = signs(MEANS | {"against": against}, NOISY, Thresholds())
    assert f"FAA is {80 + lost:.1f} with the residual and 80.0 without it: {said}" in sign.seen


def test_forgetting_is_seen_inside_a_task_and_after_it():
    inside, after = signs({}, FALLING, Thresholds(forgetting=20))
    assert (inside.task, inside.round, inside.value) == (1, 0, 50.0)
    assert inside.seen == "Task 1 fell from 90.0% to 40.0% while task 2 was learned, and ended it at 80.0%."
    assert "comes back by the end of the task" in inside.advice
    assert (after.task, after.round, after.value) == (2, 1, 60.0)
    assert after.seen == "Task 1 fell from 80.0% to 20.0% while task 3 was learned. So did task 2."
    assert "overwritten" in after.advice
    assert [sign.task for sign in signs({}, FALLING, Thresholds(forgetting=55))] == [2]
    assert signs({}, FALLING, Thresholds(forgetting=60)) == []


def test_tasks_that_are_learned_at_once_forget_nothing():
    rounds = [trained(0, 0, correct=[9, 9, 9]), trained(0, 1, correct=[1, 1, 1])]
    assert signs({}, rounds, Thresholds(forgetting=0)) == []


def test_bloat_is_a_sign_where_a_budget_is_stated():
    assert signs({}, SENDING, Thresholds()) == []
    (sign,) = signs({}, SENDING, Thresholds(budget=400))
    assert (sign.kind, sign.value, sign.task, sign.round) == ("budget", 600.0, 0, 1)
    assert "600 numbers in one round, 1.5 times the budget; the budget was passed in 2 of 3 rounds" in sign.seen
    assert signs({}, SENDING, Thresholds(budget=600)) == []


def test_records_without_the_fields_have_no_signs():
    bare = [{key: value for key, value in one.items() if key not in ("deviation", "values_up")} for one in NOISY]
    assert signs(MEANS, bare, Thresholds(0, 0, 1)) == []
    assert measures(bare) == {}


def test_signs_of_a_kind_stand_together_the_worst_first():
    found = judged({}, FALLING, Thresholds())["signs"]
    assert [[sign["task"] for sign in group] for group in by_kind(found)] == [[2, 1]]


def test_deviation_is_summed_up_over_layers_and_rounds():
    assert measures(NOISY) == {"deviation_mean": pytest.approx(0.25), "deviation_max": 0.5}
    broken = trained(0, 2, {"fc1": [float("nan"), float("nan")], "fc2": [1.0, 1.0]})
    assert [list(one.relative) for one in deviations([broken])] == [["fc2"]]


def test_the_terminal_tells_the_deviation_and_the_worst_of_each_kind():
    shown = [Text.from_markup(text).plain for text in health_lines(judge(MEANS, NOISY + FALLING))]
    assert shown[0] == "averaging the factors loses 25.0% of an update, at most 50.0%"
    assert shown[1] == "aggregation noise 50% task 1, train 1, fc1"
    assert shown[4] == "forgetting spike 60 points task 3, train 2 (and 1 more task)"
    assert len(shown) == 7
    assert health_lines({"method": "fedavg"}) == []


def test_the_terminal_prints_names_as_they_are():
    results = judge(MEANS, [trained(0, 0, {"a[bold]": [1.0, 1.0]})])
    assert "a[bold]" in Text.from_markup("\n".join(health_lines(results))).plain


def test_signs_stand_on_top_of_the_page():
    page = words(render(judge({"method": "fedit"} | MEANS, NOISY + FALLING), NOISY + FALLING, ""))
    assert page.index("Aggregation noise 50%") < page.index("Forgetting spike 60 points") < page.index("Sent up")
    assert "task 3, train 2 · sign above 20 points (health.forgetting)" in page
    assert "Also task 2, train 1 (50 points)." in page


def test_a_run_without_signs_says_what_was_judged():
    results = judge({"method": "fedit"} | MEANS, NOISY + FALLING, noise=0.9, forgetting=90.0)
    page = words(render(results, NOISY + FALLING, ""))
    assert "No health signs: aggregation noise at most 50% (sign above 90%); forgetting spike at most 60 points" in page
    assert "No health signs" not in words(render({"method": "fedit"}, [], ""))


def deviating(layers, rounds=2, tasks=2):
    return [
        trained(
            task, index, {layer: [1e-4 * (place + 1), 0.3 / (place + index + 1)] for place, layer in enumerate(layers)}
        )
        for task in range(tasks)
        for index in range(rounds)
    ]


def drawings(page):
    return [ET.fromstring(one) for one in re.findall(r"<svg[^>]*deviation-by-layer.*?</svg>", page, re.DOTALL)]


@pytest.mark.parametrize("layers", [["fc"], ["first", "second_of_all_the_layers"], VIT, [f"fc{n}" for n in range(100)]])
def test_every_cell_is_drawn_at_every_width(layers):
    events = deviating(layers)
    wide, middle, narrow = drawings(render({"method": "fedit"} | MEANS, events, ""))
    for drawing in (wide, middle, narrow):
        shown = [node for node in drawing.iter("path") if "tint" in node.get("class", "")]
        legend = 25
        assert sum(node.get("d").count("M") for node in shown) == len(layers) * 4 + legend
        box = [float(size) for size in drawing.get("viewBox").split()]
        assert 150 < box[3] < 1000
        ticks = [node for node in drawing.iter("text") if node.get("text-anchor") == "end"]
        assert all(float(node.get("x")) - 7 * len(node.text) > -1 for node in ticks)


def test_many_layers_are_named_by_block():
    wide = drawings(render({"method": "fedit"} | MEANS, deviating(VIT), ""))[0]
    names = [node.text for node in wide.iter("text")]
    assert [f"block {n}" for n in range(12)] == [name for name in names if name and name.startswith("block")]
    assert any("\nmlp.fc2" in (node.text or "") or "mlp.fc2" in (node.text or "") for node in wide.iter("title"))


def test_few_layers_are_named_one_by_one_with_their_shares():
    wide = drawings(render({"method": "fedit"} | MEANS, deviating(["m.a.fc1", "m.a.fc2"]), ""))[0]
    names = [node.text for node in wide.iter("text")]
    assert {"fc1", "fc2", "30.0", "15.0", "10.0"} <= set(names)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ({}, "This method loses what is shown."),
        ({"exact": True}, "This method restores it: nothing of what is shown is lost."),
        ({"own_merge": True}, "This method merges in its own way: shown is what averaging would lose."),
    ],
)
def test_the_caption_says_what_becomes_of_the_deviation(kind, said):
    results = {"method": "m", "low_rank": MEANS["low_rank"] | kind}
    page = words(render(results, deviating(["fc"]), ""))
    assert said in page
    assert "FedEx-LoRA, ACL 2025" in page


def test_one_factor_a_round_is_zero_by_construction():
    results = {"method": "m", "low_rank": {"both": False, "exact": True, "own_merge": False}}
    page = render(results, [trained(0, 0)], "")
    assert "Zero by construction" in words(page)
    assert not drawings(page)


@pytest.mark.parametrize("results", [{}, MEANS])
def test_nothing_is_said_where_nothing_is_known(results):
    assert "Deviation by layer" not in render({"method": "m"} | results, [trained(0, 0)], "")


def test_equal_updates_lose_nothing():
    page = words(render({"method": "joint"} | MEANS, [trained(0, 0, {"fc": [0.0, 1e-17]})], ""))
    assert "Nothing was lost" in page


def test_rounds_without_averaged_factors_stay_empty():
    events = [*deviating(["fc"], rounds=1, tasks=1), trained(0, 0, phase="consolidate")]
    wide = drawings(render({"method": "m"} | MEANS, events, ""))[0]
    assert any("no factors were averaged" in (node.text or "") for node in wide.iter("title"))


def test_layers_are_in_the_order_of_their_numbers():
    assert layers_of(deviations(deviating([f"fc{n}" for n in (10, 9, 0)]))) == ["fc0", "fc9", "fc10"]
