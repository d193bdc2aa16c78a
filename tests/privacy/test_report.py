"""What the report says of messages, and the Grams that may not leave."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from scipy import stats

from fedbraid.errors import UserError
from fedbraid.local.moments import RIDGE_MOMENTS
from fedbraid.privacy import check_gram_samples
from fedbraid.privacy import what_leaves as leaves
from fedbraid.privacy.report import LEAST_DIAGONAL, Leaving
from fedbraid.quantities import CLASS_GRAM, CLASS_MOMENTS, GRAMS, RESULTS, SAMPLES, VALUE
from fedbraid.wire import entries

MESSAGE = {
    "lora_B/blocks.0.fc1": torch.zeros(3072, 4),
    "lora_B/blocks.0.fc2": torch.zeros(768, 4),
    "triangle/lora_B/blocks.0.fc1": torch.zeros(10),
    "diagonal/head/0": torch.zeros(769),
    "head/0": torch.zeros(10, 769),
    "count": torch.tensor(250.0, dtype=torch.float64),
}


GIVES = {
    **dict.fromkeys(("lora_A", "lora_B", "head"), VALUE),
    **GRAMS,
    **RIDGE_MOMENTS,
    **CLASS_MOMENTS,
    "second": CLASS_GRAM,
    "count": SAMPLES,
    "correct": RESULTS,
}


def what_leaves(message: Mapping[str, Any], **told: Any) -> Leaving:
    """The report on tensors, or on some of these shapes."""
    tensors = {name: torch.zeros(part) if isinstance(part, tuple) else part for name, part in message.items()}
    return leaves(entries(tensors, GIVES), **told)


def test_numbers_and_bytes_by_kind() -> None:
    parts = {part.kind: part for part in what_leaves(MESSAGE, samples=250).parts}
    assert parts["lora_B"].names == ("lora_B/blocks.0.fc1", "lora_B/blocks.0.fc2")
    assert (parts["lora_B"].numbers, parts["lora_B"].bytes) == (3840 * 4, 3840 * 16)
    assert (parts["count"].numbers, parts["count"].bytes) == (1, 8)
    assert parts["head"].numbers == 7690
    assert set(parts) == {"lora_B", "gram", "diagonal gram", "head", "count"}
    assert "exact number of samples" in parts["count"].discloses


def test_whole_numbers_travel_as_they_are() -> None:
    (part,) = what_leaves({"correct": torch.zeros(3, dtype=torch.int64)}, samples=1).parts
    assert part.bytes == 24


def test_grams_tell_their_samples_a_dimension() -> None:
    message = {
        "diagonal/a": (50,),
        "triangle/b": (55,),
        "vectors/c": (20, 3),
        "values/c": (3,),
        "diagonal/c": (20,),
        "second": (4, 21),
        "fit/gram": (15,),
        "fit/product/0": (4, 5),
    }
    grams = {gram.name: gram for gram in what_leaves(message, samples=25).grams}
    widths = {"diagonal/a": 50, "triangle/b": 10, "vectors/c": 20, "diagonal/c": 20, "second": 6, "fit/gram": 5}
    assert {name: gram.width for name, gram in grams.items()} == widths
    assert grams["diagonal/a"].per_dimension == 0.5
    text = "\n".join(what_leaves(message, samples=25).lines())
    assert "1 x diagonal gram of width 50: 0.5 samples a dimension (fewer samples than dimensions)" in text
    assert "1 x gram of width 10: 2.5 samples a dimension\n" in text


def test_a_gram_of_no_samples_is_none() -> None:
    parts = {"fit/count": torch.tensor(7.0), "held/count": torch.tensor(0.0), "fit/gram": (15,), "held/gram": (15,)}
    (gram,) = what_leaves(parts, samples=7).grams
    assert (gram.name, gram.samples) == ("fit/gram", 7)


def test_without_noise_it_says_so() -> None:
    report = what_leaves(MESSAGE, samples=250, tokens=49250)
    assert not report.private
    assert report.lines()[0].endswith("of 250 samples (49,250 tokens); the server sees this client's own message")
    assert report.lines()[-1] == "not private: no noise"
    assert "only sums" in what_leaves(MESSAGE, samples=250, masked=True).lines()[0]


def test_an_epsilon_covers_what_was_noised_and_no_more() -> None:
    report = what_leaves(MESSAGE, samples=250, epsilon=1.5, delta=1e-5)
    assert not report.private
    covered = "for: count, diagonal gram, head, lora_B"
    assert report.lines()[-2] == f"epsilon = 1.5 at delta = 1e-05 (add or remove one sample) {covered}"
    assert report.lines()[-1].startswith("not private: no noise on gram;")
    alone = what_leaves({"diagonal/a": (5,)}, samples=250, epsilon=1.5, delta=1e-5)
    assert alone.private
    assert "not private" not in alone.lines()[-1]
    endless = what_leaves({"diagonal/a": (5,)}, samples=9, epsilon=float("inf"), delta=1e-5)
    assert not endless.private
    assert "protects nobody" in endless.lines()[-1]


def test_the_report_is_plain_data() -> None:
    report = what_leaves(MESSAGE, samples=250, epsilon=1.5, delta=1e-5)
    data = json.loads(json.dumps(report.data()))
    assert data["private"] is False
    assert data["relation"] == "add or remove one sample"
    assert data["parts"][0]["kind"] == "count"
    assert data["grams"][0]["width"] == 4


def test_contradictions_are_refused() -> None:
    with pytest.raises(UserError, match="without its delta"):
        what_leaves(MESSAGE, samples=1, epsilon=1.0)


def test_a_gram_on_too_few_samples_is_refused_in_the_clear() -> None:
    with pytest.raises(UserError, match=r"'fc1'.*100 samples.*needs 768 samples.*a diagonal Gram, masked.*allow=True"):
        check_gram_samples(100, 768, "fc1", masked=False)
    with pytest.raises(UserError, match=r"needs 20 samples.*more samples, masked mode.*privacy\.word"):
        check_gram_samples(1, 768, "fc1", masked=False, form="diagonal", word="privacy.word")
    check_gram_samples(768, 768, "fc1", masked=False)
    check_gram_samples(LEAST_DIAGONAL, 768, "fc1", masked=False, form="diagonal")
    check_gram_samples(1, 768, "fc1", masked=True)
    check_gram_samples(1, 768, "fc1", masked=False, allow=True)


def test_on_the_fewest_samples_one_rarely_dominates_an_entry() -> None:
    def dominated(samples: int) -> float:
        return samples * stats.beta.sf(0.5, 0.5, (samples - 1) / 2)

    assert dominated(LEAST_DIAGONAL) < 0.01 < dominated(LEAST_DIAGONAL - 5)
    squares = torch.randn(LEAST_DIAGONAL, 40_000, generator=torch.Generator().manual_seed(0)).square()
    share = (squares.amax(0) > squares.sum(0) / 2).float().mean().item()
    assert share == pytest.approx(dominated(LEAST_DIAGONAL), rel=0.2)
