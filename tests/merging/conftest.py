"""Adapters made by peft itself, on tiny models from configurations: a BERT (linear layers) and a GPT-2 (Conv1D)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fedbraid.models.torchvision import make_torchvision_importable
from fedbraid.testing import random_bert

make_torchvision_importable()

TARGETS = {"bert": ["query", "value", "output.dense"], "gpt2": ["c_attn", "c_proj"]}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models `bert` (with a tokenizer) and `gpt2`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    root = tmp_path_factory.mktemp("bases")
    random_bert(root / "bert")
    torch.manual_seed(1)
    config = GPT2Config(n_layer=2, n_embd=24, n_head=2, vocab_size=40, n_positions=16)
    GPT2LMHeadModel(config).save_pretrained(root / "gpt2")
    return root


@pytest.fixture(scope="session")
def load(bases: Path) -> Callable[..., torch.nn.Module]:
    """A fresh base model: of a family, or a classifier on BERT."""
    from transformers import AutoModelForSequenceClassification, BertModel, GPT2LMHeadModel

    def model(family: str) -> torch.nn.Module:
        if family == "classifier":
            torch.manual_seed(2)
            return AutoModelForSequenceClassification.from_pretrained(bases / "bert", num_labels=3).eval()
        of = {"bert": BertModel, "gpt2": GPT2LMHeadModel}[family]
        return of.from_pretrained(bases / family).eval()

    return model


@pytest.fixture(scope="session")
def make(load: Callable[..., torch.nn.Module]) -> Callable[..., Path]:
    """Writes an adapter with random factors by peft; keywords go to its LoraConfig."""
    from peft import LoraConfig, get_peft_model

    def write(folder: Path, family: str = "bert", *, seed: int = 0, **config: object) -> Path:
        kind = "gpt2" if family == "gpt2" else "bert"
        settings = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS[kind], "fan_in_fan_out": kind == "gpt2"} | config
        model = get_peft_model(load(family), LoraConfig(**settings))
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    around = parameter if "lora_" not in name else 0.0
                    parameter.copy_(around + 0.2 * torch.randn(parameter.shape, generator=draws))
        model.save_pretrained(folder)
        return folder

    return write


@pytest.fixture(scope="session")
def three(make: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three adapters of one rank and scale, with unrelated factors."""
    root = tmp_path_factory.mktemp("three")
    return [make(root / name, seed=seed) for seed, name in enumerate("abc")]


@pytest.fixture(scope="session")
def mixed(make: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three adapters that differ in rank, alpha, scaling and layers."""
    root = tmp_path_factory.mktemp("mixed")
    return [
        make(root / "a", seed=0, r=2, lora_alpha=3),
        make(root / "b", seed=1, r=4, use_rslora=True, rank_pattern={"query": 3}, alpha_pattern={"layer.1.*query": 5}),
        make(root / "c", seed=2, r=5, target_modules=["query", "intermediate.dense"], layers_to_transform=[1]),
    ]


@pytest.fixture(scope="session")
def call() -> Callable[..., str]:
    """Runs `fedbraid merge` with these arguments; what it printed."""
    from fedbraid.cli import app

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, ["merge", *map(str, arguments)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


@pytest.fixture(scope="session")
def deltas(load: Callable[..., torch.nn.Module]) -> Callable[..., dict[str, torch.Tensor]]:
    """What peft says that an adapter adds to each weight, as the base model stores it, in fp64."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    def read(folder: Path, family: str = "bert") -> dict[str, torch.Tensor]:
        model = PeftModel.from_pretrained(load(family), folder).double()
        layers = {name: m for name, m in model.base_model.model.named_modules() if isinstance(m, LoraLayer)}
        return {name: layer.get_delta_weight("default").detach() for name, layer in layers.items()}

    return read


@pytest.fixture(scope="session")
def mean_of(deltas: Callable[..., dict[str, torch.Tensor]]) -> Callable[..., dict[str, torch.Tensor]]:
    """The weighted mean of what adapters add; nothing for a layer counts as zero."""

    def mean(folders: list[Path], weights: list[float], family: str = "bert") -> dict[str, torch.Tensor]:
        total: dict[str, torch.Tensor] = {}
        for folder, weight in zip(folders, weights, strict=True):
            for name, delta in deltas(folder, family).items():
                total[name] = total.get(name, 0) + weight * delta
        return total

    return mean
