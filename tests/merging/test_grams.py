"""Closed forms on data, against Grams taken from models that peft has merged, one sentence at a time."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from fedbraid import data
from fedbraid.models import load_backbone
from fedbraid.testing import save_tokenizer
from fedbraid.testing.worlds import WORDS

WEIGHTS = [0.3, 0.7]


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> list[Path]:
    """Two files of sentences of unlike lengths and words."""
    root = tmp_path_factory.mktemp("sentences")
    draws = torch.Generator().manual_seed(0)
    files = [root / "one.csv", root / "two.csv"]
    for number, file in enumerate(files):
        with file.open("w", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(["text", "label"])
            for row in range(20 + 10 * number):
                words = torch.randint(6 * number, 12 + 6 * number, (3 + row % 5,), generator=draws).tolist()
                rows.writerow([" ".join(WORDS[min(w, len(WORDS) - 1)] for w in words), f"class {row % 2}"])
    return files


@pytest.fixture(scope="module")
def world(make, bases, tmp_path_factory):
    """By family: (folder of the base model with a tokenizer, two adapters)."""
    root = tmp_path_factory.mktemp("grams")
    save_tokenizer(bases / "gpt2")
    return {
        "bert": (bases / "bert", [make(root / f"b{n}", seed=n, r=2 + n) for n in range(2)]),
        "gpt2": (
            bases / "gpt2",
            [make(root / f"g{n}", "gpt2", seed=n, r=2 + n, task_type="CAUSAL_LM") for n in range(2)],
        ),
    }


def mean_gram(model: torch.nn.Module, layer: str, texts, reads) -> Tensor:
    """Of one token's inputs to the layer, over sentences that are never padded."""
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_pre_hook(lambda _, x: seen.append(x[0][0].double()))
    with torch.no_grad():
        for text in texts:
            model(**reads.tokenize([text]))
    handle.remove()
    tokens = torch.cat(seen)
    return tokens.T @ tokens / len(tokens)


@pytest.mark.parametrize(
    ("rule", "family", "own_data"),
    [("regmean", "bert", True), ("lorm", "bert", False), ("lorm", "gpt2", True)],
)
def test_the_closed_form_on_the_files(rule, family, own_data, world, sentences, call, deltas, load, tmp_path):
    base, adapters = world[family]
    files = sentences if own_data else sentences[:1]
    source = [word for file in files for word in ("--data", file)]
    options = ("--weights", "0.3,0.7", "--base", base, "--ridge", 1e-4, "--off-diagonal", 0.8)
    call(*adapters, "--rule", rule, *source, *options, "--out", tmp_path / "out")
    found = deltas(tmp_path / "out", family)
    reads = load_backbone(str(base)).input
    changes = [deltas(adapter, family) for adapter in adapters]
    merged = [PeftModel.from_pretrained(load(family), adapter).merge_and_unload().eval() for adapter in adapters]
    for layer in list(found)[:3]:
        grams = []
        for number, model in enumerate(merged):
            texts = data.load(files[number % len(files)]).train.texts
            gram = mean_gram(model, layer, texts, reads)
            diagonal = gram.diagonal().diag()
            grams.append(WEIGHTS[number] * (diagonal + (0.8 if rule == "regmean" else 0) * (gram - diagonal)))
        total = sum(grams)
        lam = 1e-4 * total.trace() / len(total)
        updates = [change[layer].T if family == "gpt2" else change[layer] for change in changes]
        product = sum(u @ (g + lam * w * torch.eye(len(g))) for u, g, w in zip(updates, grams, WEIGHTS, strict=True))
        expected = torch.linalg.solve(total + lam * torch.eye(len(total)), product.T).T
        update = found[layer].T if family == "gpt2" else found[layer]
        assert (update - expected).norm() < 1e-4 * expected.norm(), layer


def test_samples_are_a_seeded_choice(world, sentences):
    from fedbraid.merging.grams import Measure, samples_of

    backbone = load_backbone(str(world["bert"][0]))
    chosen = [samples_of(str(sentences[1]), backbone, Measure("full", 7, seed=seed)).ids.tolist() for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert [len(ids) for ids in chosen] == [7, 7, 7]
