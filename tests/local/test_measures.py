"""Measured Grams against inputs captured by this test's own hooks on a plain forward pass."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fedbraid.core import Batch, Data, Round
from fedbraid.errors import RunError, UserError
from fedbraid.linalg import expand, from_triangle
from fedbraid.local.exams import RightAnswers, right_answers
from fedbraid.local.measures import FEATURES, GramOf, Passes, measure_grams
from fedbraid.models import AdaptedModel

Drawn = Callable[[AdaptedModel], dict[str, Tensor]]
ONE = Passes(1, batch_size=8)


def captured(model: AdaptedModel, values: Mapping[str, Tensor], data: Data, layer: str) -> Tensor:
    """(tokens, d_in) in fp64: what the layer reads, sample by sample without any padding in the batch."""
    seen: list[Tensor] = []
    target = model.backbone.module.get_submodule(layer) if layer != FEATURES else None
    if target is not None:
        handle = target.register_forward_hook(lambda _m, args, _out: seen.append(args[0].flatten(0, -2).double()))
    model.load(values)
    model.backbone.module.eval()
    with torch.no_grad():
        for i in range(len(data)):
            inputs = {key: rows[i : i + 1] for key, rows in data.inputs.items()}
            if "attention_mask" in inputs:
                inputs = {key: rows[:, : int(inputs["attention_mask"].sum())] for key, rows in inputs.items()}
            features = model.backbone.pool(model.backbone.module, inputs)
            if target is None:
                seen.append(features.double())
    if target is not None:
        handle.remove()
    return torch.cat(seen)


def close(a: Tensor, b: Tensor) -> bool:
    """Equal up to the fp32 rounding of activations."""
    return bool((a - b).abs().max() <= 2e-5 * b.abs().max())


def grams(
    model: AdaptedModel, values: dict[str, Tensor], data: Data, round: Round, *wanted: GramOf, passes: Passes = ONE
) -> dict[str, Tensor]:
    return measure_grams(model, values, data, round, wanted=wanted, passes=passes)


@pytest.fixture(params=["images", "texts"])
def case(request: pytest.FixtureRequest) -> tuple[AdaptedModel, Data]:
    names = {"images": "tiny", "texts": "text_model"}
    return request.getfixturevalue(names[request.param]), request.getfixturevalue(request.param)


def test_full_grams_of_every_layer(case: tuple[AdaptedModel, Data], the_round: Round, drawn: Drawn) -> None:
    model, data = case
    values = drawn(model)
    found = grams(model, values, data, the_round, *(GramOf(f"lora_A/{layer}", layer) for layer in model.layers))
    assert set(found) == {f"triangle/lora_A/{layer}" for layer in model.layers}
    for layer in model.layers:
        x = captured(model, values, data, layer)
        gram = from_triangle(found[f"triangle/lora_A/{layer}"])
        assert gram.dtype == torch.float64
        assert close(gram, x.T @ x)


def test_diagonal_grams(case: tuple[AdaptedModel, Data], the_round: Round, drawn: Drawn) -> None:
    model, data = case
    values = drawn(model)
    for layer in model.layers:
        found = grams(model, values, data, the_round, GramOf(f"lora_A/{layer}", layer, "diagonal"))
        x = captured(model, values, data, layer)
        assert close(found[f"diagonal/lora_A/{layer}"], x.square().sum(0))


def test_projected_grams_are_a_g_a_transposed(case: tuple[AdaptedModel, Data], the_round: Round, drawn: Drawn) -> None:
    model, data = case
    values = drawn(model)
    wanted = [GramOf(f"lora_B/{layer}", layer, projection=values[f"lora_A/{layer}"]) for layer in model.layers]
    found = grams(model, values, data, the_round, *wanted)
    for layer in model.layers:
        x, a = captured(model, values, data, layer), values[f"lora_A/{layer}"].double()
        gram = from_triangle(found[f"triangle/lora_B/{layer}"])
        assert gram.shape == (3, 3)
        assert close(gram, a @ (x.T @ x) @ a.T)


def test_low_rank_grams_keep_the_diagonal(tiny: AdaptedModel, images: Data, the_round: Round, drawn: Drawn) -> None:
    layer, values = next(iter(tiny.layers)), drawn(tiny)
    found = grams(tiny, values, images, the_round, GramOf("k", layer, "low_rank", rank=4))
    assert {key: tuple(t.shape) for key, t in found.items()} == {
        "vectors/k": (96, 4),
        "values/k": (4,),
        "diagonal/k": (96,),
    }
    x = captured(tiny, values, images, layer)
    whole = expand(found["vectors/k"], found["values/k"], found["diagonal/k"])
    assert close(whole.diagonal(), x.square().sum(0))
    assert torch.allclose(found["values/k"], torch.linalg.eigvalsh(x.T @ x)[-4:], rtol=1e-3)


def test_the_head_reads_features_with_a_ones_column(
    case: tuple[AdaptedModel, Data], the_round: Round, drawn: Drawn
) -> None:
    model, data = case
    values = drawn(model)
    x = captured(model, values, data, FEATURES)
    joined = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    expected = joined.T @ joined
    found = from_triangle(grams(model, values, data, the_round, GramOf("h", FEATURES, ones="joined"))["triangle/h"])
    assert close(found, expected)
    assert found[-1, -1].item() == len(data)
    shrunk = grams(model, values, data, the_round, GramOf("h", FEATURES, ones="joined", off_diagonal=0.5))
    half = expected / 2
    half.diagonal().copy_(expected.diagonal())
    assert close(from_triangle(shrunk["triangle/h"]), half)
    apart = from_triangle(grams(model, values, data, the_round, GramOf("h", FEATURES, ones="apart"))["triangle/h"])
    assert torch.equal(apart[-1, :-1], torch.zeros(model.width, dtype=torch.float64))
    assert close(apart[:-1, :-1], expected[:-1, :-1])
    assert apart[-1, -1].item() == len(data)


def test_padding_counts_for_nothing(text_model: AdaptedModel, texts: Data, the_round: Round, drawn: Drawn) -> None:
    """More padding in the batch and garbage under it: the same Grams, one row a real token."""
    values, layers = drawn(text_model), list(text_model.layers)
    wanted = [GramOf(layer, layer) for layer in layers] + [GramOf("h", FEATURES, ones="joined")]
    plain = grams(text_model, values, texts, the_round, *wanted)
    padding = torch.full((len(texts), 5), 9)
    ids = torch.where(texts.inputs["attention_mask"].bool(), texts.inputs["input_ids"], 11)
    padded = type(texts)(
        {
            "input_ids": torch.cat([ids, padding], 1),
            "attention_mask": torch.cat([texts.inputs["attention_mask"], torch.zeros_like(padding)], 1),
        },
        texts.labels,
    )
    again = grams(text_model, values, padded, the_round, *wanted)
    assert all(close(again[key], plain[key]) for key in plain)
    counted: dict[str, int] = {}

    def watch(layer: str, x: Tensor) -> None:
        counted[layer] = counted.get(layer, 0) + len(x)

    with torch.no_grad(), text_model.inputs_of(layers, watch):
        text_model.features(texts.inputs)
    tokens = int(texts.inputs["attention_mask"].sum())
    assert counted == dict.fromkeys(layers, tokens)
    assert tokens < texts.inputs["attention_mask"].numel() / 2


def test_hooks_are_gone_after_measuring(tiny: AdaptedModel, images: Data, the_round: Round, drawn: Drawn) -> None:
    layer = next(iter(tiny.layers))
    grams(tiny, drawn(tiny), images, the_round, GramOf("k", layer))
    module = tiny.backbone.module.get_submodule(layer)
    assert not module._forward_pre_hooks

    def fails(_layer: str, _x: Tensor) -> None:
        raise KeyError

    with pytest.raises(KeyError), tiny.inputs_of([layer], fails):
        tiny.features(images.inputs)
    assert not module._forward_pre_hooks


def test_two_passes_double_and_batches_do_not_matter(
    case: tuple[AdaptedModel, Data], the_round: Round, drawn: Drawn
) -> None:
    model, data = case
    values = drawn(model)
    wanted = [GramOf(layer, layer) for layer in model.layers] + [GramOf("h", FEATURES, ones="joined")]
    once = grams(model, values, data, the_round, *wanted)
    twice = grams(model, values, data, the_round, *wanted, passes=Passes(2, batch_size=8))
    large = grams(model, values, data, the_round, *wanted, passes=Passes(1, batch_size=100))
    assert all(torch.allclose(twice[key], 2 * once[key], rtol=1e-12) for key in once)
    assert all(close(large[key], once[key]) for key in once)
    with pytest.raises(UserError, match="gram_passes = 0"):
        Passes(0)


def test_measuring_changes_nothing_else(tiny: AdaptedModel, images: Data, the_round: Round, drawn: Drawn) -> None:
    values = drawn(tiny)
    values |= {k.replace("lora", "delta"): v for k, v in values.items() if k.startswith("lora")}
    held = {key: value.clone() for key, value in values.items()}
    before = torch.get_rng_state()
    first = grams(tiny, values, images, the_round, GramOf("k", next(iter(tiny.layers))))
    second = grams(tiny, values, images, the_round, GramOf("k", next(iter(tiny.layers))))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first["triangle/k"], second["triangle/k"])
    assert all(torch.equal(values[key], held[key]) for key in values)


def test_weights_that_are_not_finite_are_refused_under_low_rank(
    tiny: AdaptedModel, images: Data, the_round: Round, drawn: Drawn
) -> None:
    values = {key: value * torch.nan for key, value in drawn(tiny).items()}
    with pytest.raises(RunError, match="not finite"):
        grams(tiny, values, images, the_round, GramOf("k", list(tiny.layers)[-1], "low_rank"))


# --- right answers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Oracle:
    """A model whose logits are its inputs."""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def load(self, tensors: Mapping[str, Tensor]) -> None: ...
    def train(self, mode: bool = True) -> None: ...
    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return inputs["x"]

    def logits(self, features: Tensor) -> Tensor:
        return features


@pytest.mark.parametrize("offsets", [(0, 3, 5, 10), (0, 10), (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10), (0, 2, 4)])
def test_right_answers_by_group_of_classes(offsets: tuple[int, ...], images: Data) -> None:
    seen = offsets[-1]
    draws = torch.Generator().manual_seed(1)
    labels = torch.randint(0, seen, (300,), generator=draws)
    scores = torch.randn(300, seen, generator=draws) + 2 * torch.nn.functional.one_hot(labels, seen)
    data = type(images)({"x": scores}, labels)
    counts = RightAnswers(37)(Oracle(), {}, data, offsets=offsets)
    correct, total = [0] * (len(offsets) - 1), [0] * (len(offsets) - 1)
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        group = next(j for j in range(len(total)) if offsets[j] <= label < offsets[j + 1])
        total[group] += 1
        correct[group] += row.index(max(row)) == label
    assert counts["correct"].tolist() == correct
    assert counts["total"].tolist() == total
    assert counts["correct"].dtype == torch.int64


def test_right_answers_of_a_real_model(tiny: AdaptedModel, images: Data, drawn: Drawn) -> None:
    values = drawn(tiny)
    features = captured(tiny, values, images, FEATURES)
    head = torch.cat([values["head/0"], values["head/1"]]).double()
    predicted = (features @ head[:, :-1].T + head[:, -1]).argmax(1)
    counts = right_answers(tiny, values, images, offsets=(0, 2, 4))
    for group, classes in enumerate(((0, 1), (2, 3))):
        inside = (images.labels == classes[0]) | (images.labels == classes[1])
        assert counts["total"][group] == inside.sum()
        assert counts["correct"][group] == ((predicted == images.labels) & inside).sum()


def test_no_samples_count_as_none(tiny: AdaptedModel, images: Data, drawn: Drawn) -> None:
    none = type(images)({key: rows[:0] for key, rows in images.inputs.items()}, images.labels[:0])
    empty = type("Empty", (), {"batches": lambda *_a, **_k: iter(()), "__len__": lambda _s: 0, "client": "x"})()
    assert len(none) == 0
    assert right_answers(tiny, drawn(tiny), empty, offsets=(0, 2, 4))["total"].tolist() == [0, 0]


def test_batches_carry_what_the_model_reads(images: Data) -> None:
    batch = next(images.batches(4, device=torch.device("cpu")))
    assert isinstance(batch, Batch)
    assert batch.inputs["pixel_values"].shape == (4, 1, 16, 16)
