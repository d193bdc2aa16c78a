"""Robust mode: who is refused among the others, what is merged then, and what happens where too many are strange."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedbraid.activity import Activity
from fedbraid.algebra import ZERO, Statistic, Tensors
from fedbraid.config import parse
from fedbraid.core import Event, Outcome, Round, State, Task
from fedbraid.errors import StoppedRun, UserError
from fedbraid.linalg import to_triangle
from fedbraid.merges import RegMean
from fedbraid.quantities import GRAMS, SAMPLES, SQUARES, TRAINING_METRICS, VALUE, Gives
from fedbraid.reports.records import record
from fedbraid.robustness import check_settings, notes, thresholds
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.inprocess import InProcess
from fedbraid.runtimes.journal import Journal
from fedbraid.runtimes.robust import Cohort, Thresholds, clipped
from fedbraid.runtimes.robust.comparisons import deviation
from fedbraid.runtimes.robust.facts import facts_of
from fedbraid.runtimes.robust.sketches import WIDTH, signs, sketch
from fedbraid.runtimes.rules import Rules
from fedbraid.runtimes.server import Server
from fedbraid.testing.attacks import ATTACKS, Attacked, honest
from fedbraid.testing.numbers import Squares, holders, squares
from fedbraid.wire import entries

MODEL: Any = None
CLASSES, WIDE = 5, 24
ROUND = Round(Task(0, (0, CLASSES)), "train", 0, 0)
SHARED = {
    "head/0": torch.randn(CLASSES, WIDE, generator=torch.Generator().manual_seed(7)),
    "lora_B/fc1": torch.zeros(40, 4),
}
GIVES = {"count": SAMPLES, "head": VALUE, "lora_B": VALUE, "fisher": SQUARES, **GRAMS, **TRAINING_METRICS}
CLIENTS = [str(client) for client in range(10)]
BAD = ("2", "5", "8")


@dataclass
class Sends(Squares):
    """A phase whose clients send given updates, merged by RegMean."""

    updates: Mapping[str, Tensors] | None = None

    def client_update(self, model: Any, shared: Tensors, data: Any, round: Round) -> Tensors:
        assert self.updates
        return self.updates[data.client]

    def gives(self, round: Round, *, lifted: bool = False) -> Gives:
        return RegMean().gives() if lifted else GIVES

    def lift(self, shared: Tensors, update: Tensors, round: Round) -> Statistic:
        return RegMean().lift(update)

    def watch(self, shared: Tensors, update: Tensors, round: Round) -> Statistic:
        return ZERO


def update(held: Sequence[int], samples: int, draw: torch.Generator) -> Tensors:
    """What a client with these classes sends after a step on a head and on a factor, with the Gram of its features."""
    means = 1.5 * torch.randn(CLASSES, WIDE, generator=torch.Generator().manual_seed(1)) + 1
    labels = torch.tensor(held)[torch.randint(len(held), (samples,), generator=draw)]
    features = means[labels] + torch.randn(samples, WIDE, generator=draw)
    hot = torch.nn.functional.one_hot(labels, CLASSES).float()
    gradient = (hot - 1 / CLASSES).T @ features / samples
    step = 0.05 * samples**0.5 / 10
    inner = torch.randn(WIDE, 4, generator=torch.Generator().manual_seed(2))
    outer = torch.randn(40, CLASSES, generator=torch.Generator().manual_seed(3))
    return {
        "count": torch.tensor(float(samples), dtype=torch.float64),
        "head/0": SHARED["head/0"] + step * gradient,
        "lora_B/fc1": SHARED["lora_B/fc1"] + step * outer @ gradient @ inner,
        "triangle/head/0": to_triangle(features.double().T @ features.double()),
        "metric/samples": torch.tensor(float(samples), dtype=torch.float64),
        "metric/loss": torch.tensor(float(samples), dtype=torch.float64),
    }


def alike(seed: int = 0) -> dict[str, Tensors]:
    """Ten clients that hold all classes, 40 to 80 samples each."""
    draw = torch.Generator().manual_seed(seed)
    return {client: update(range(CLASSES), 40 + 4 * place, draw) for place, client in enumerate(CLIENTS)}


def disjoint(seed: int) -> dict[str, Tensors]:
    """Ten clients of one class each, five to 150 samples."""
    draw = torch.Generator().manual_seed(seed)
    samples = (5 * 30 ** torch.rand(10, generator=draw)).long().tolist()
    return {client: update([place % CLASSES], samples[place], draw) for place, client in enumerate(CLIENTS)}


def served(
    updates: Mapping[str, Tensors],
    *,
    attack: str = "",
    bad: Sequence[str] = BAD,
    robust: Thresholds | None = None,
    journal: Path | None = None,
    **options: Any,
) -> Server:
    phase = Sends(updates=updates)
    work = Work(squares(phase), MODEL, Codec())
    inner = InProcess(work, holders(dict.fromkeys(updates, (1.0,))), holders({"test": (1.0,)}))
    transport = Attacked(inner, work, ATTACKS[attack] if attack else honest, bad)
    return Server(work, transport, rules=Rules(quorum=0.3), robust=robust, journal=Journal(journal), **options)


def merged(updates: Mapping[str, Tensors], **options: Any) -> Outcome:
    return served(updates, **options).sum(SHARED, ROUND, sorted(updates))


def without(updates: Mapping[str, Tensors], gone: Sequence[str]) -> dict[str, Tensors]:
    return {client: sent for client, sent in updates.items() if client not in gone}


def same(one: Outcome, other: Outcome) -> bool:
    return one.total.keys() == other.total.keys() and all(
        torch.equal(value, other.total[key]) for key, value in one.total.items()
    )


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0, 50.0, 2.5], [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]])
def test_the_deviation_is_that_of_numpy(values: list[float]) -> None:
    middle = np.median(values)
    assert deviation(values) == pytest.approx(1.4826 * np.median(np.abs(np.array(values) - middle)), rel=1e-12)


def test_limits_are_floors_or_deviations() -> None:
    """Counts 1, 2, 4, 8, 16, 400: the median is 5.66, the deviation of the logarithms 1.54 by numpy."""
    counts = dict(zip("abcdef", [1.0, 2.0, 4.0, 8.0, 16.0, 400.0], strict=True))
    cohort = {c: {"count": torch.tensor(n, dtype=torch.float64)} for c, n in counts.items()}
    logs = np.log([*counts.values()])
    spread = 1.4826 * np.median(np.abs(logs - np.log(np.median([*counts.values()]))))

    def refused(limits: Thresholds) -> list[str]:
        compared = Cohort(limits, {}, ROUND, GIVES)
        for client, sent in cohort.items():
            compared.add(client, sent)
        return [str(refusal) for refusal in compared.verdict().refused.values()]

    assert np.log(400 / 6) < 3 * spread
    assert refused(Thresholds(weight=30)) == []
    rule = "refused client f: count: no larger a weight than others' by far: 66.7 times the median"
    assert refused(Thresholds(weight=30, deviations=0)) == [f"{rule} (allowed: 30 times the median)"]
    shown = f"{np.exp(2 * spread):.3g}"
    assert refused(Thresholds(weight=2, deviations=2)) == [f"{rule} (allowed: {shown} times the median)"]


def test_sketches_keep_angles_and_add_up() -> None:
    draw = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 5, 4000, generator=draw)
    drawn = signs(one.shape, ROUND, "a")
    near = one + 0.5 * other
    exact = torch.nn.functional.cosine_similarity(one.flatten(), near.flatten(), dim=0).item()
    found = torch.nn.functional.cosine_similarity(sketch(one, drawn), sketch(near, drawn), dim=0).item()
    assert found == pytest.approx(exact, abs=0.1)
    assert torch.allclose(sketch(one, drawn) + sketch(other, drawn), sketch(one.double() + other, drawn))
    corner = torch.zeros_like(one)
    corner[:3, :100] = one[:3, :100]
    assert torch.equal(sketch(one[:3, :100], drawn), sketch(corner, drawn))
    assert torch.equal(drawn, signs(one.shape, ROUND, "a"))
    assert not torch.equal(drawn, signs(one.shape, replace(ROUND, index=1), "a"))


def test_nobody_attacks_nothing_changes() -> None:
    for cohort in (alike(), disjoint(0)):
        outcome, expected = merged(cohort, robust=Thresholds()), merged(cohort)
        assert same(outcome, expected)
        assert (outcome.reported, outcome.refused, outcome.clipped) == (expected.reported, {}, {})


def test_no_honest_client_is_refused_whatever_classes_it_holds() -> None:
    for seed in range(60):
        for cohort in (alike(seed), disjoint(seed)):
            compared = Cohort(Thresholds(), SHARED, ROUND, GIVES)
            for client, sent in cohort.items():
                compared.add(client, sent)
            assert not compared.verdict().refused


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_an_attack_leaves_what_the_honest_alone_make(attack: str) -> None:
    limits = Thresholds(alike=attack == "swapped labels")
    outcome = merged(alike(), attack=attack, robust=limits)
    if attack == "a little is enough":
        assert not outcome.refused
        return
    assert list(outcome.refused) == list(BAD)
    assert same(outcome, merged(without(alike(), BAD)))
    assert not same(outcome, merged(alike(), attack=attack))
    assert not set(outcome.reported) & set(BAD)


def test_a_sign_flip_among_clients_of_different_classes_is_no_reason() -> None:
    """Nothing tells it from a client of another class; see `docs/robust.md` for what it does."""
    for attack in ("sign flip", "swapped labels"):
        assert not merged(disjoint(1), attack=attack, robust=Thresholds()).refused


def test_large_changes_among_clients_of_different_classes_are_refused() -> None:
    draw = torch.Generator().manual_seed(5)
    cohort = {client: update([place % CLASSES], 40 + place, draw) for place, client in enumerate(CLIENTS)}
    for attack in ("scaled by 10", "scaled by 100", "Grams times 1e3", "Grams times 1e6", "Grams of rank one"):
        outcome = merged(cohort, attack=attack, robust=Thresholds())
        assert list(outcome.refused) == list(BAD), attack
        assert same(outcome, merged(without(cohort, BAD)))


def test_values_that_are_sent_as_changes_are_compared_as_such() -> None:
    cohort = {client: {**sent, "head/0": sent["head/0"] - SHARED["head/0"]} for client, sent in alike().items()}
    scaled = {**cohort, "4": {**cohort["4"], "head/0": 20 * cohort["4"]["head/0"]}}
    outcome = merged(scaled, robust=Thresholds())
    assert [refusal.tensor for refusal in outcome.refused.values()] == ["head"]
    assert not merged(cohort, robust=Thresholds()).refused


def test_a_resumed_round_makes_the_same_selection(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def until(stop: str) -> Callable[..., None]:
        def tell(what: str, **facts: Any) -> None:
            if stop in (what, facts.get("client")):
                raise Killed

        return tell

    expected = merged(alike(), attack="scaled by 10", robust=Thresholds())
    for stop in ("7", "refused", "merged"):
        folder, options = tmp_path / stop, {"attack": "scaled by 10", "robust": Thresholds()}
        with pytest.raises(Killed):
            merged(alike(), journal=folder, tell=until(stop), **options)
        outcome = merged(alike(), journal=folder, **options)
        assert same(outcome, expected)
        assert {c: str(why) for c, why in outcome.refused.items()} == {
            c: str(why) for c, why in expected.refused.items()
        }


def test_above_a_share_all_are_clipped_and_it_is_said() -> None:
    told: list[tuple[str, Any]] = []
    bad = ("1", "2", "5", "8")
    outcome = merged(
        alike(),
        attack="scaled by 100",
        bad=bad,
        robust=Thresholds(),
        tell=lambda what, **facts: told.append((what, facts)),
    )
    assert (outcome.refused, outcome.reported) == ({}, tuple(CLIENTS))
    assert set(bad) <= set(outcome.clipped)
    assert "head times 0.0" in outcome.clipped["1"]
    [doubt] = [facts for what, facts in told if what == "doubted"]
    assert doubt["clients"] == list(outcome.clipped)
    assert "4 of 10 updates are strange, more than 30 %" in doubt["reason"]
    alone, plain = merged(without(alike(), bad)), merged(alike(), attack="scaled by 100", bad=bad)
    values = [RegMean().solve(one.total)["lora_B/fc1"] for one in (alone, plain, outcome)]
    assert (values[2] - values[0]).norm() < 0.01 * (values[1] - values[0]).norm()


def test_clipping_scales_a_gram_with_its_product() -> None:
    cohort = alike()
    bad = {"triangle/head/0": 1e6 * cohort["1"]["triangle/head/0"]}
    compared = Cohort(Thresholds(most=0.05), SHARED, ROUND, GIVES)
    for client, sent in cohort.items():
        compared.add(client, {**sent, **bad} if client == "1" else sent)
    verdict = compared.verdict()
    small = clipped(entries({**cohort["1"], **bad}, GIVES), SHARED, verdict.clips["1"])
    assert list(verdict.clips) == ["1"]
    lifted, honest_one = RegMean().lift(small), RegMean().lift(cohort["1"])
    ratio = lifted["triangle/head/0"] / honest_one["triangle/head/0"]
    assert torch.allclose(ratio, ratio[:1])
    assert ratio[0] < 3
    assert torch.allclose(lifted["product/head/0"], ratio[0] * honest_one["product/head/0"])
    assert lifted["count"] < 1e-4 * honest_one["count"]


def test_above_a_share_the_run_may_pause() -> None:
    with pytest.raises(StoppedRun, match="4 of 10 updates are strange, more than 30 %"):
        merged(alike(), attack="scaled by 10", bad=("1", "2", "5", "8"), robust=Thresholds(fallback="pause"))


def test_of_few_clients_nobody_is_refused_and_it_is_said_once() -> None:
    told: list[str] = []
    few = without(alike(), CLIENTS[4:])
    server = served(few, attack="scaled by 100", robust=Thresholds(), tell=lambda what, **f: told.append(what))
    outcome = server.sum(SHARED, ROUND, sorted(few))
    server.sum(SHARED, replace(ROUND, index=1), sorted(few))
    assert same(outcome, merged(few, attack="scaled by 100"))
    assert told.count("doubted") == 1


def test_facts_do_not_grow_with_the_model() -> None:
    wide = {"lora_B/fc1": torch.zeros(400, 400)}
    sent = {"count": torch.tensor(9.0), "lora_B/fc1": torch.ones(400, 400)}
    facts = facts_of(entries(sent, GIVES), wide, ROUND)
    assert facts.moved["lora_B"].sketch.shape == (WIDTH,)
    assert facts.moved["lora_B"].norm == pytest.approx(400)


def test_a_client_of_a_smaller_rank_is_compared_where_it_has_values() -> None:
    cohort = alike()
    cohort["3"] = {**cohort["3"], "lora_B/fc1": cohort["3"]["lora_B/fc1"][:, :2]}
    compared = Cohort(Thresholds(), SHARED, ROUND, GIVES)
    for client, sent in cohort.items():
        compared.add(client, sent)
    assert not compared.verdict().refused


def test_what_is_told_of_a_round_names_who_was_refused(tmp_path: Path) -> None:
    log = tmp_path / "activity.jsonl"
    outcome = merged(alike(), attack="scaled by 10", robust=Thresholds(), tell=Activity(log))
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    reasons = {entry["client"]: entry["reason"] for entry in entries if entry["what"] == "refused"}
    told = record(Event(0, ROUND, State(), outcome))
    assert reasons == told["refused"]
    assert reasons["2"].startswith("refused client 2: head: a change as large as others': 9.21 times the median")
    assert "allowed: 4 times the median" in reasons["2"]


def test_settings_that_do_not_go_together_are_refused() -> None:
    assert thresholds(parse({})) is None
    config = parse({"robust": {"select": True, "weight": 50}})
    assert thresholds(config) == Thresholds(weight=50)
    check_settings(config)
    for other in ({"secure": {"masked": True}}, {"gate": {"check": False}}):
        with pytest.raises(UserError, match=r"robust\.select"):
            check_settings(parse({"robust": {"select": True}, **other}))
    assert notes(config, 5) == ()
    assert "refuses nobody here" in notes(config, 4)[0]
    assert parse({}).robust.model_dump().keys() - {"select"} == Thresholds.__dataclass_fields__.keys()


def refused_among(cohort: Mapping[str, Tensors], received: Tensors | None = None) -> list[str]:
    compared = Cohort(Thresholds(), received or {}, ROUND, GIVES)
    for client, sent in cohort.items():
        compared.add(client, sent)
    return list(compared.verdict().refused)


def test_a_gram_of_one_direction_is_refused_where_nobody_says_how_many_samples_there_are() -> None:
    draw = torch.Generator().manual_seed(0)
    cohort = {client: {"diagonal/lora_A/fc1": 1 + torch.rand(30, generator=draw)} for client in CLIENTS}
    one = torch.zeros(30)
    one[3] = 45
    assert refused_among({**cohort, "4": {"diagonal/lora_A/fc1": one}}) == ["4"]
    light = {"diagonal/lora_A/fc1": one / 45}
    assert refused_among({**cohort, "4": light}) == []  # a client of one sample may well have such a one


def test_false_counts_cost_no_honest_client_of_a_very_unequal_cohort() -> None:
    samples = [12, 136, 166, 132, 227, 2, 4, 28, 6, 4]
    start = {"head/0": torch.zeros(40)}
    cohort = {
        client: {
            "count": torch.tensor(float(n * (100 if client in BAD else 1)), dtype=torch.float64),
            "head/0": n**0.8 * torch.nn.functional.one_hot(torch.tensor(n % 5), 40).float(),
        }
        for client, n in zip(CLIENTS, samples, strict=True)
    }
    assert set(refused_among(cohort, start)) <= set(BAD)


def test_fisher_information_may_differ_by_orders_of_magnitude() -> None:
    draw = torch.Generator().manual_seed(0)
    sizes = [1, 1.2, 0.9, 1.1, 300, 1, 0.8, 1.3, 1e-4, 1]
    cohort = {
        client: {"count": torch.tensor(20.0).double(), "fisher/base/fc1": size * torch.rand(30, generator=draw)}
        for client, size in zip(CLIENTS, sizes, strict=True)
    }
    assert refused_among(cohort) == []
    assert refused_among({**cohort, "0": {**cohort["0"], "fisher/base/fc1": torch.full((30,), 1e6)}}) == ["0"]
