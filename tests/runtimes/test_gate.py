"""RELIABILITY, promise 8: one bad client costs only itself, whatever it sends; honest ones are never refused."""

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from fedbraid.config import Config
from fedbraid.core import EVALUATE, Outcome, Refusal, Round, Task
from fedbraid.linalg import low_rank_plus_diagonal, to_triangle
from fedbraid.local.exams import Confusion, Numbers
from fedbraid.local.generation import Written
from fedbraid.local.moments import RIDGE_MOMENTS
from fedbraid.local.training import Training
from fedbraid.merges import FedEx, Fisher, Ties
from fedbraid.methods import METHODS, Setting, make
from fedbraid.models import Adapter
from fedbraid.phases import Measured
from fedbraid.quantities import (
    CLASS_COUNTS,
    CLASS_GRAM,
    CLASS_MOMENTS,
    GRAMS,
    MOMENT,
    PRODUCT,
    SQUARE_GRAM,
    SUM,
    TRAINING_METRICS,
    VALUE,
    own,
)
from fedbraid.runtimes import gram_rules, limits
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.gate import Gate
from fedbraid.runtimes.limits import Limits
from fedbraid.testing import image_world
from fedbraid.testing.malformed import KINDS
from fedbraid.testing.replay import TWICE, Place, judged, places, recorded, replay
from fedbraid.wire import Entry, entries, samples_behind

ADAPTER = Adapter(rank=2, blocks="0-1")
PLAN = Training(epochs=1, batch_size=16, lr=1e-3, augment=False)


def work_of(
    name: str, options: Mapping[str, Any] | None = None, side: Literal["server", "client"] = "server", **setting: Any
) -> Work:
    chosen = METHODS[name](**(options or {}))
    kinds = chosen.about.adapters
    adapter = chosen.adapter(replace(ADAPTER, kind=kinds[0] if "lora" not in kinds else "lora"))
    return Work(make(chosen, Setting(adapter, PLAN, 2, **setting)), image_world().model(adapter), Codec(), side)


@pytest.fixture(scope="module")
def found() -> dict[str, list[Place]]:
    """Places of honest updates, by method."""
    works = {name: work_of(name) for name in ("lorm", "fedex_lora", "afl", "pilora")}
    return {name: places(work, recorded(work, image_world())) for name, work in works.items()}


@pytest.mark.parametrize("name", ["lorm", "fedex_lora", "afl", "pilora"])
def test_a_malformed_answer_costs_its_sender_alone(name: str, found: dict[str, list[Place]]) -> None:
    draw, tried = random.Random(0), 0
    for kind in [*KINDS, TWICE]:
        for place in draw.sample(found[name], len(found[name])):
            payload = place.payload(kind, draw)
            if payload is None:
                continue
            result, what = judged(kind, place, payload)
            assert result == "equal", (kind, place.was.round, place.client, what)
            tried += 1
            break
    assert tried >= 30  # not every method has counts and Grams to falsify


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("truncated", "a whole message"),
        ("a name twice", "a whole message"),
        ("oversized", "the size of a message"),
        ("to another question", "an answer to this question"),
        ("a replay", "an answer to this question"),
        ("of no known kind", "a kind of answer"),
        ("no tensors", "every tensor of an update"),
        ("one tensor more", "no other tensor than an update's"),
        ("another shape", "the shape of an update"),
        ("another type", "the type of an update"),
        ("nan", "finite"),
        ("minus infinity", "finite"),
        ("a negative count", "not below zero"),
        ("a count of zero", "samples behind an update"),
        ("a fraction of a count", "a whole number"),
        ("an absurd count", "a possible count"),
        ("counts that disagree", "a multiple of count"),
        ("an inflated gram", "a possible sum of squares"),
        ("an indefinite gram", "no eigenvalue below zero"),
    ],
)
def test_the_refusal_names_the_rule(kind: str, rule: str, found: dict[str, list[Place]]) -> None:
    draw = random.Random(1)
    payloads = ((place, place.payload(kind, draw)) for place in found["lorm"])
    place, payload = next((place, payload) for place, payload in payloads if payload is not None)
    _, outcome = judged(kind, place, payload)
    assert isinstance(outcome, Outcome)
    refusal = outcome.refused[place.client]
    assert (refusal.client, refusal.rule) == (place.client, rule)
    assert str(refusal).startswith(f"refused client {place.client}: ")


def test_clients_of_other_ranks_pass() -> None:
    work = work_of("fedit", ranks={"a": 1})
    rounds = recorded(work, image_world(), gate=Gate(work))  # a refused client would stop the run
    assert len(rounds) == 6


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lorm", {"gram": "full", "gram_off_diagonal": 1.0, "head_off_diagonal": 1.0}),
        ("lorm", {"gram": "low_rank", "head_bias": "averaged"}),
        ("fedex_lora", {"encoding": "sketch", "sketch_width": 6}),
        ("fedex_lora", {"encoding": "dense"}),
        ("fed_sb", {"first_step": "sgd"}),
        ("afl", {"held_out": 0.5}),
        ("ties", {}),
        ("fisheravg", {"samples": 4}),
    ],
)
def test_honest_updates_pass(name: str, options: dict[str, Any], side: Literal["server", "client"]) -> None:
    """`check_method` sees to all methods as they are by default; here are their other ways, lifted on either side."""
    work = work_of(name, options, side)
    assert recorded(work, image_world(), gate=Gate(work))


def test_a_message_that_is_too_long_is_not_read(found: dict[str, list[Place]]) -> None:
    place = found["lorm"][0]
    gate = Gate(place.work, Limits(spare=0))
    gate.begin(place.was.received, place.was.round, ["a", "b"])
    assert gate.oversized("a", len(place.was.answers["a"])) is None
    assert gate.oversized("a", 10**6) == Refusal(
        "a", "", "the size of a message", "1000000 bytes", f"{gate._room} bytes"
    )


GIVES = {
    **GRAMS,
    **RIDGE_MOMENTS,
    **TRAINING_METRICS,
    **{name: quantity for some in (Fisher(), FedEx("sketch"), Ties()) for name, quantity in some.gives().items()},
    "count": CLASS_COUNTS,
    "first": MOMENT,
    "second": CLASS_GRAM,
    "square": SQUARE_GRAM,
    "head": VALUE,
    "any": SUM,
    **{f"beside/{name}": quantity.again for name, quantity in {**CLASS_MOMENTS, **own(CLASS_MOMENTS)}.items()},
    "product": PRODUCT,
}


def told(tensors: Mapping[str, Tensor]) -> list[Entry]:
    """The tensors as what their names are declared to be."""
    found = entries(tensors, GIVES)
    assert len(found) == len(tensors)
    return found


def first_violation(rules: Any) -> str:
    """The rule that is broken first; nothing where none is."""
    violation = next(iter(rules), None)
    return violation.rule if violation else ""


def grams(**tensors: Tensor) -> str:
    sent = Codec().decode(Codec().encode({f"{name}/x": tensor for name, tensor in tensors.items()})).tensors
    return first_violation(gram_rules.grams(told(sent), Limits()))


@pytest.mark.parametrize("width", [1, 2, 17, 96])
@pytest.mark.parametrize("samples", [1, 5, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_honest_grams_pass_whatever_their_rank(width: int, samples: int, dtype: torch.dtype) -> None:
    codec, rules = Codec(dtype), Limits()
    for seed in range(6):
        draws = torch.Generator().manual_seed(seed)
        scale = 10.0 ** torch.randint(-12, 8, (width,), generator=draws)
        x = torch.randn(samples, width, generator=draws, dtype=torch.float64) * scale + seed
        gram = x.T @ x * torch.ones(width, width).fill_(0.9).fill_diagonal_(1) if seed % 2 else x.T @ x
        names = ("vectors", "values", "diagonal")
        parts = {f"{name}/y": t for name, t in zip(names, low_rank_plus_diagonal(gram, 4), strict=True)}
        update = {"triangle/x": to_triangle(gram), "diagonal/z": gram.diagonal(), **parts}
        update |= {"fit/gram": to_triangle(gram), "fit/product/0": x.sum(0)[None], "fit/count": torch.tensor(samples)}
        sent = told(codec.decode(codec.encode(update)).tensors)
        assert not first_violation(limits.sizes(sent, {}, rules, samples))
        assert not first_violation(gram_rules.grams(sent, rules))
        assert not first_violation(gram_rules.sums(sent))


def test_grams_that_no_data_give_are_refused() -> None:
    eye = torch.eye(3, dtype=torch.float64)
    ones = torch.ones(3, 3, dtype=torch.float64)
    assert grams(triangle=to_triangle(eye)) == ""
    assert grams(triangle=torch.zeros(6)) == ""
    assert grams(triangle=to_triangle(ones - 1e-7 * eye)) == ""  # rounding
    assert grams(triangle=to_triangle(ones - 1e-5 * eye)) == "no eigenvalue below zero"
    assert grams(triangle=to_triangle(ones - eye)) == "no eigenvalue below zero"  # of a trace of zero
    assert grams(triangle=to_triangle(-eye)) == "a diagonal that is not below zero"
    assert grams(triangle=to_triangle(1e18 * eye)) == "a possible trace"
    assert grams(diagonal=torch.full((10,), 2e17)) == "a possible trace"
    assert grams(second=torch.stack([to_triangle(eye), to_triangle(ones - eye)])) == "no eigenvalue below zero"
    assert grams(square=eye) == ""
    assert grams(square=eye + torch.tensor([[0, 0, 0.1], [0, 0, 0], [0, 0, 0]])) == "a symmetric matrix"
    assert grams(square=ones - eye) == "no eigenvalue below zero"


def test_triangles_of_as_many_classes_as_numbers_are_no_square() -> None:
    """Six classes of Grams of width three: (6, 6), which is no symmetric matrix."""
    x = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    second = torch.stack([to_triangle(rows.T @ rows) for rows in x])
    assert tuple(second.shape) == (6, 6)
    assert grams(second=second) == ""
    assert grams(second=second - 100) == "a diagonal that is not below zero"


def test_sums_go_with_sums_of_squares() -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    count, first, second = torch.tensor([4.0]), x.sum(0)[None], to_triangle(x.T @ x)[None]
    honest = {"count": count, "first": first, "second": second}
    assert not first_violation(gram_rules.sums(told(honest)))
    assert first_violation(gram_rules.sums(told(honest | {"first": first * 100}))) == "a sum that goes with second"
    assert first_violation(gram_rules.sums(told(honest | {"count": count * 0}))) == "a sum that goes with second"
    assert not first_violation(gram_rules.sums(told({"count": count, "first": x, "second": x})))  # no triangles


def lifted(**tensors: Tensor) -> str:
    update = {f"{name}/x": tensor for name, tensor in tensors.items()}
    return first_violation(gram_rules.products(told(update), {"x": torch.zeros(1)}, Limits(value=10)))


def test_products_of_clients_are_of_possible_values() -> None:
    w = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    gram = x.T @ x
    assert lifted(product=w @ gram, triangle=to_triangle(gram)) == ""
    assert lifted(product=w * gram.diagonal(), diagonal=gram.diagonal()) == ""
    assert lifted(weighted=w * w.square(), fisher=w.square()) == ""
    assert lifted(product=w @ gram * 1000, triangle=to_triangle(gram)) == "a product with a possible value"
    assert lifted(product=w * gram.diagonal() * 1000, diagonal=gram.diagonal()) == "a product with a possible value"
    assert lifted(weighted=1000 * w.square(), fisher=w.square()) == "a product with a possible value"
    assert lifted(product=w * 1000) == ""  # of something else


def numbers(received: dict[str, Tensor], **tensors: Any) -> str:
    update = {name.replace("__", "/"): torch.as_tensor(value) for name, value in tensors.items()}
    found = told(update)
    samples = samples_behind(found)
    most = Limits().samples if samples is None else samples
    return first_violation([*limits.sizes(found, received, Limits(), most), *limits.counts(found, samples)])


def test_values_are_no_larger_than_they_may_be() -> None:
    head = {"head/0": torch.ones(2)}
    assert numbers(head, head__0=[9e5, -9e5], count=3.0) == ""
    assert numbers(head, head__0=[0, -1e7], count=3.0) == "a possible value"
    assert numbers({"head/0": torch.tensor([1e7])}, head__0=[9e7], count=3.0) == ""  # it was large before
    assert numbers(head, sum__head__0=[2e6, 0], count=3.0) == ""
    assert numbers(head, sum__head__0=[4e6, 0], count=3.0) == "a possible value"
    assert numbers({}, any=[1e9], count=3.0) == ""
    assert numbers({}, any=[1e11], count=3.0) == "a possible sum over 3 samples"
    assert numbers({}, metric__loss=1e30, count=3.0) == ""
    assert numbers({}, fisher__x=[-1e-9]) == "not below zero"
    assert numbers({}, vectors__x=[1.5]) == "a number of size one at most"


def test_counts_agree() -> None:
    assert numbers({}, count=3.0, metric__samples=6.0, beside__count=[1.0, 2.0]) == ""
    assert numbers({}, count=3.0, metric__samples=7.0) == "a multiple of count"
    assert numbers({}, count=3.0, beside__count=[1.0, 1.0]) == "the samples of count"
    assert numbers({}, count=3.0, beside__client__a__count=[9.0, 1.0]) == "the samples of count"
    assert numbers({}, count=[1.0, 0.0]) == ""
    assert numbers({}, count=[0.0, 0.0]) == "samples behind an update"
    assert numbers({}, fit__count=0.0, held__count=2.0) == ""
    assert numbers({}, fit__count=0.0, held__count=0.0) == "samples behind an update"
    assert numbers({}, count=3.0, senders=2.0) == "one sender"
    assert numbers({}, positive_count__head__0=[1.5], count=3.0) == "a whole number"


EXAMS = (Confusion((0, 1)), Numbers(ranks=True), Written())
EXAM = Round(Task(1, (0, 2, 4)), EVALUATE, 0, 0)
COUNTED = {"correct": torch.tensor([1, 2]), "total": torch.tensor([2, 2])}


def examined(**changes: Any) -> Refusal | None:
    """What the gate says of a second evaluator's answer, after an honest one."""
    work = work_of("fedit")
    everything = {name: quantity for exam in EXAMS for name, quantity in exam.gives().items()}
    evaluate = replace(work.method.evaluate, statistic=Measured(lambda *_: {}, everything))
    gate = Gate(replace(work, method=replace(work.method, evaluate=evaluate)))
    gate.begin({}, EXAM, ["a", "b"])
    assert gate.refusal("a", COUNTED) is None
    assert gate.oversized("b", 10**9) is None
    return gate.refusal(
        "b", COUNTED | {name.replace("__", "/"): torch.as_tensor(value) for name, value in changes.items()}
    )


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({}, ""),
        ({"asked__cats": 3, "right__cats": 2, "token_loss": 3.5, "tokens": 7}, ""),
        ({"correct": [3, 2]}, "at most total"),
        ({"correct": [-1, 2]}, "not below zero"),
        ({"correct": [0.5, 1.0]}, "a whole number"),
        ({"correct": [1], "total": [2]}, "the shape that others have sent"),
        ({"total": [0, 0], "correct": [0, 0]}, "samples behind a test"),
        ({"right__cats": 2}, "something that is read with asked/cats"),
        ({"asked__cats": 2}, "something that is read with right/cats"),
        ({"moment__product": 2.0}, "something that is read with moment/count"),
        ({"score__bleu": 2.0}, "something that is read with score_samples"),
        ({"score__bleu": [2.0, 1.0], "score_samples": 4}, "the shape of its kind"),
        ({"predicted__b": [2.0, 1.0], "truth__b": [1.0]}, "the shape of truth/b"),
        ({"predicted__b": [2.0, 1.0], "truth__b": [1.0, 1.0]}, ""),
        ({"own": [[3.0]]}, "a name that is declared"),
        ({"asked__cats": 3, "right__cats": 4}, "at most asked/cats"),
        ({"confusion": [[4, 1], [0, 0]]}, "the samples of total"),
        ({"confusion": [[2], [2]]}, "a square"),
        ({"token_loss": float("nan")}, "finite"),
        ({"tokens": torch.zeros(2, dtype=torch.complex64)}, "numbers of a known type"),
        ({"triangle__x": torch.zeros(3)}, "a name that is declared"),
    ],
)
def test_answers_to_evaluations(changes: dict[str, Any], rule: str) -> None:
    refusal = examined(**changes)
    assert (refusal.rule if refusal else "") == rule


def test_no_gate_adds_what_it_can(found: dict[str, list[Place]]) -> None:
    place = found["fedex_lora"][0]
    payload = place.payload("a huge value", random.Random(0))
    assert payload
    assert place.client in replay(place.work, place.was, place.answers(payload)).reported


def test_the_configuration_has_the_limits() -> None:
    values = Config().gate.model_dump()
    assert values.pop("check") is True
    assert Limits(**values) == Limits()
