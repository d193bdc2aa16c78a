"""Merged folders as peft loads them: their effect is the mean of the adapters' effects, by peft's own account."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

WEIGHTS = [0.2, 0.3, 0.5]
IDS = torch.tensor([[2, 5, 6, 7, 3], [2, 9, 8, 4, 3]])


def output(model: torch.nn.Module) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=IDS)[0]


def with_added(model: torch.nn.Module, deltas: dict[str, torch.Tensor]) -> torch.nn.Module:
    with torch.no_grad():
        for name, delta in deltas.items():
            model.get_submodule(name).weight += delta.float()
    return model


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= tolerance * value.norm(), name


@pytest.mark.parametrize("rule", ["average", "fedex"])
def test_mixed_ranks_scales_and_layers_on_linear_layers(rule, mixed, call, deltas, mean_of, load, tmp_path):
    call(*mixed, "--rule", rule, "--weights", "0.2,0.3,0.5", "--out", tmp_path / "out")
    found = deltas(tmp_path / "out")
    if rule == "fedex":
        residual = deltas(tmp_path / "out" / "residual")
        found = {name: delta + residual[name] for name, delta in found.items()}
    expected = mean_of(mixed, WEIGHTS)
    close(found, expected)
    loaded = PeftModel.from_pretrained(load("bert"), tmp_path / "out")
    if rule == "fedex":
        base = PeftModel.from_pretrained(load("bert"), tmp_path / "out" / "residual").merge_and_unload()
        loaded = PeftModel.from_pretrained(base, tmp_path / "out")
    assert torch.allclose(output(loaded), output(with_added(load("bert"), expected)), atol=1e-5)


@pytest.fixture(scope="module")
def on_gpt2(make, tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("gpt2")
    kind = {"family": "gpt2", "task_type": "CAUSAL_LM"}
    return [
        make(root / "a", **kind, seed=0, r=2),
        make(root / "b", **kind, seed=1, r=4, use_rslora=True),
        make(root / "c", **kind, seed=2, r=3, rank_pattern={"h.0.attn.c_attn": 5}),
    ]


def test_transposed_layers_of_gpt2(on_gpt2, call, deltas, mean_of, load, tmp_path):
    call(*on_gpt2, "--rule", "average", "--weights", "0.2,0.3,0.5", "--out", tmp_path / "out")
    expected = mean_of(on_gpt2, WEIGHTS, "gpt2")
    close(deltas(tmp_path / "out", "gpt2"), expected)
    loaded = PeftModel.from_pretrained(load("gpt2"), tmp_path / "out")
    assert type(loaded).__name__ == "PeftModelForCausalLM"
    assert torch.allclose(output(loaded), output(with_added(load("gpt2"), expected)), atol=1e-5)


@pytest.mark.parametrize("rule", ["average", "fedex", "ties"])
def test_the_merged_base_of_gpt2_answers_alike(rule, on_gpt2, bases, call, mean_of, load, tmp_path):
    from transformers import GPT2LMHeadModel

    out = tmp_path / "out"
    call(*on_gpt2, "--rule", rule, "--format", "merged", "--base", bases / "gpt2", "--out", out, "--weights", "2,3,5")
    merged = GPT2LMHeadModel.from_pretrained(out)
    expected = with_added(load("gpt2"), mean_of(on_gpt2, WEIGHTS, "gpt2"))
    if rule != "ties":
        assert torch.allclose(output(merged), output(expected), atol=1e-5)
    certificate = json.loads((out / "certificate.json").read_text())
    assert certificate["error"] < 1e-5
    assert {layer["rank"] is None for layer in certificate["layers"]} == {rule == "ties"}


def test_a_merged_base_keeps_its_tokenizer_and_loads_as_a_backbone(three, bases, call, mean_of, load, tmp_path):
    from fedbraid.models import load_backbone

    call(*three, "--rule", "average", "--format", "merged", "--base", bases / "bert", "--out", tmp_path / "out")
    found = load_backbone(str(tmp_path / "out"))
    expected = with_added(load("bert"), mean_of(three, [1 / 3] * 3))
    assert torch.allclose(output(found.module), output(expected), atol=1e-5)


def test_one_adapter_stays_what_it_is(mixed, call, deltas, tmp_path):
    call(mixed[1], "--rule", "average", "--out", tmp_path / "out")
    close(deltas(tmp_path / "out"), deltas(mixed[1]))


def test_fedex_keeps_rank_and_scale_for_the_next_round(three, call, load, tmp_path):
    call(*three, "--rule", "fedex", "--out", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (4, 8, {})
    model = PeftModel.from_pretrained(load("bert"), tmp_path / "out", is_trainable=True)
    assert any("lora_" in name for name, p in model.named_parameters() if p.requires_grad)
    first = [PeftModel.from_pretrained(load("bert"), folder).state_dict() for folder in three]
    key = next(key for key in first[0] if "lora_A" in key)
    assert torch.allclose(model.state_dict()[key], sum(state[key] for state in first) / 3, atol=1e-6)
    residual = json.loads((tmp_path / "out" / "residual" / "adapter_config.json").read_text())
    assert residual["r"] == 8  # (3 - 1) * 4


def test_a_rank_bound_gives_the_best_approximation(three, call, deltas, mean_of, tmp_path):
    call(*three, "--rule", "average", "--rank", 2, "--out", tmp_path / "out")
    expected = mean_of(three, [1 / 3] * 3)
    for name, delta in deltas(tmp_path / "out").items():
        assert torch.linalg.matrix_rank(delta) == 2
        values = torch.linalg.svdvals(expected[name])
        assert (delta - expected[name]).norm().item() == pytest.approx(values[2:].norm().item(), rel=1e-5)


def test_heads_and_biases_are_averaged(make, call, load, bases, tmp_path):
    from peft import PeftModel as Loaded

    kind = {"family": "classifier", "task_type": "SEQ_CLS", "bias": "lora_only"}
    folders = [make(tmp_path / name, **kind, seed=seed) for seed, name in enumerate("ab")]
    call(*folders, "--rule", "average", "--weights", "1,3", "--out", tmp_path / "out")
    states = [Loaded.from_pretrained(load("classifier"), f).state_dict() for f in [*folders, tmp_path / "out"]]
    trained = [key for key in states[0] if "modules_to_save" in key or key.endswith("query.base_layer.bias")]
    assert len(trained) >= 4
    for key in trained:
        assert torch.allclose(states[2][key], 0.25 * states[0][key] + 0.75 * states[1][key], atol=1e-6)
    whole = json.loads((tmp_path / "out" / "certificate.json").read_text())["whole_error"]
    assert 0 < whole < 1e-6

    out = tmp_path / "merged"
    call(
        *folders, "--rule", "average", "--weights", "1,3", "--out", out, "--format", "merged", "--base", bases / "bert"
    )
    from transformers import AutoModelForSequenceClassification

    merged = AutoModelForSequenceClassification.from_pretrained(out)
    loaded = Loaded.from_pretrained(load("classifier"), tmp_path / "out")
    assert torch.allclose(output(merged), output(loaded), atol=1e-5)


def test_embeddings_are_merged(make, call, deltas, mean_of, tmp_path):
    targets = ["word_embeddings", "query"]
    folders = [make(tmp_path / n, target_modules=targets, r=r, seed=r) for n, r in (("a", 2), ("b", 3))]
    call(*folders, "--rule", "average", "--out", tmp_path / "out")
    close(deltas(tmp_path / "out"), mean_of(folders, [0.5, 0.5]))
