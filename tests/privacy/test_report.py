"""What the report says of messages, and the Grams that may not leave."""

import json

import pytest
import torch
from scipy import stats

from fedbraid.errors import UserError
from fedbraid.privacy import check_gram_samples, what_leaves
from fedbraid.privacy.kinds import UNKNOWN, kind_of, words
from fedbraid.privacy.report import LEAST_DIAGONAL

MESSAGE = {
    "lora_B/blocks.0.fc1": torch.zeros(3072, 4),
    "lora_B/blocks.0.fc2": torch.zeros(768, 4),
    "triangle/lora_B/blocks.0.fc1": torch.zeros(10),
    "diagonal/head/0": torch.zeros(769),
    "head/0": torch.zeros(10, 769),
    "count": torch.tensor(250.0, dtype=torch.float64),
}


def test_numbers_and_bytes_by_kind() -> None:
    parts = {part.kind: part for part in what_leaves(MESSAGE, samples=250).parts}
    assert parts["lora_B"].names == ("lora_B/blocks.0.fc1", "lora_B/blocks.0.fc2")
    assert (parts["lora_B"].numbers, parts["lora_B"].bytes) == (3840 * 4, 3840 * 16)
    assert (parts["count"].numbers, parts["count"].bytes) == (1, 8)
    assert parts["head"].numbers == 7690
    assert set(parts) == {"lora_B", "gram", "diagonal gram", "head", "count"}
    assert "exact number of samples" in parts["count"].discloses


def test_shapes_are_as_good_as_tensors() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in MESSAGE.items()}
    assert what_leaves(shapes, samples=250) == what_leaves(MESSAGE, samples=250)
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


def test_without_noise_it_says_so() -> None:
    report = what_leaves(MESSAGE, samples=250, tokens=49250)
    assert not report.private
    assert report.lines()[0].endswith("of 250 samples (49,250 tokens); the server sees this client's own message")
    assert report.lines()[-1] == "not private: no noise"
    assert "only sums" in what_leaves(MESSAGE, samples=250, masked=True).lines()[0]


def test_an_epsilon_covers_what_was_noised_and_no_more() -> None:
    report = what_leaves(MESSAGE, samples=250, noised=["diagonal gram", "gram"], epsilon=1.5, delta=1e-5)
    assert not report.private
    assert report.lines()[-2] == "epsilon = 1.5 at delta = 1e-05 (add or remove one sample) for: diagonal gram, gram"
    assert report.lines()[-1].startswith("not private: no noise on count, head, lora_B;")
    alone = what_leaves({"diagonal/a": (5,)}, samples=250, noised=["diagonal gram"], epsilon=1.5, delta=1e-5)
    assert alone.private
    assert "not private" not in alone.lines()[-1]
    endless = what_leaves({"diagonal/a": (5,)}, samples=9, noised=["diagonal gram"], epsilon=float("inf"), delta=1e-5)
    assert not endless.private
    assert "protects nobody" in endless.lines()[-1]


def test_the_report_is_plain_data() -> None:
    report = what_leaves(MESSAGE, samples=250, noised=["gram"], epsilon=1.5, delta=1e-5)
    data = json.loads(json.dumps(report.data()))
    assert data["private"] is False
    assert data["relation"] == "add or remove one sample"
    assert data["parts"][0]["kind"] == "count"
    assert data["grams"][0]["width"] == 4


def test_contradictions_are_refused() -> None:
    with pytest.raises(UserError, match="without its delta"):
        what_leaves(MESSAGE, samples=1, epsilon=1.0)
    with pytest.raises(UserError, match="'lora_A', which is said to be noised"):
        what_leaves(MESSAGE, samples=1, noised=["lora_A"], epsilon=1.0, delta=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("sum/lora_A/fc", (4, 8), "lora_A"),
        ("product/lora_A/fc", (4, 8), "product"),
        ("count", (10,), "class counts"),
        ("first", (10, 8), "class moments"),
        ("held/product/2", (10, 8), "class moments"),
        ("client/7/prototypes", (10, 8), "prototypes"),
        ("client/7", (), "sender"),
        ("truth/7", (9,), "test answers"),
        ("metric/loss", (), "training metrics"),
    ],
)
def test_kinds_of_names(name: str, shape: tuple[int, ...], kind: str) -> None:
    assert kind_of(name, shape) == kind
    assert words(kind) != UNKNOWN


def test_an_unknown_kind_is_taken_as_disclosing() -> None:
    assert words(kind_of("mystery/x", (3,))) == UNKNOWN


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
