"""Using what a run has learned: export it for other tools, or predict with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedbraid import checkpoint, language, runs
from fedbraid import config as configs
from fedbraid.algebra import Tensors
from fedbraid.config import Config
from fedbraid.core import ImageInput
from fedbraid.data import prepare
from fedbraid.data.decode import decoded
from fedbraid.data.prompts import encoded
from fedbraid.data.scored import of_numbers
from fedbraid.errors import UserError
from fedbraid.experiment import load_model
from fedbraid.methods import Setting, make
from fedbraid.models import AdaptedModel, Backbone, LanguageModel, peft_files

FORMATS = {"peft": peft_files.save_adapter, "peft+residual": peft_files.save_apart, "merged": peft_files.save_merged}


@dataclass(frozen=True)
class Trained:
    """The model of a run as its last finished round left it, without the data it came from."""

    config: Config
    model: AdaptedModel | LanguageModel
    weights: Tensors
    class_names: tuple[str, ...]
    pairs: bool = False
    """Whether it was trained on pairs of texts."""
    numbers: bool = False
    """Whether it tells numbers, and no classes."""


def trained(folder: Path) -> Trained:
    """The trained model of a run folder; `UserError` where no round is finished yet."""
    config = runs.read_config(folder)
    last = checkpoint.read(folder / "state")
    if last is None:
        raise UserError(f"{folder} has no finished round yet; run 'fedbraid resume {folder}' first")
    adapter = configs.adapter(config)
    training = configs.training(config, augment=False)
    method = make(configs.options(config), Setting(adapter, training, config.training.rounds))
    model = load_model(config)
    facts = runs.read_summary(folder)
    names = tuple(name for task in facts["task_classes"] for name in task)
    told = {"pairs": facts.get("pairs", False), "numbers": of_numbers(facts.get("score_names", ()))}
    return Trained(config, model, method.predicting(last.state.shared), names, **told)


def export_run(folder: Path, out: Path, *, format: str = "peft") -> Path:
    """Writes the model of a run to a new folder: a PEFT adapter, one with what was merged apart, or a whole model."""
    if format not in FORMATS:
        raise UserError(f"--format {format!r} is none of {', '.join(FORMATS)}")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; choose another --out")
    found = trained(folder)
    if found.model.adapter.kind == "prompt":
        raise UserError(f"{folder} tuned prompts, which neither format can hold; use the model with 'fedbraid predict'")
    out.mkdir(parents=True, exist_ok=True)
    backbone, layers = found.model.backbone, found.model.layers
    FORMATS[format](found.weights, found.model.adapter, layers, backbone, out)
    if isinstance(backbone, Backbone):
        peft_files.save_head(found.weights, found.class_names, backbone.width, out)
    return out


def predict_run(folder: Path, inputs: Sequence[str]) -> list[dict[str, Any]]:
    """For each input its most probable class, with the probability and the next classes; or a number, or a text."""
    found = trained(folder)
    model = found.model
    model.load(found.weights)
    model.train(False)
    return _answers(found.config, model, inputs) if isinstance(model, LanguageModel) else _classes(found, model, inputs)


def _answers(config: Config, model: LanguageModel, inputs: Sequence[str]) -> list[dict[str, Any]]:
    """What the model writes to each prompt, worded as in the run."""
    prompts = _texts(inputs)
    rows = encoded(prompts, [""] * len(prompts), model.input, template=language.template(config))
    writing = config.generation
    written: list[str] = []
    for start in range(0, len(rows), writing.batch_size):
        asked = [prompt for prompt, _ in rows[start : start + writing.batch_size]]
        written += model.write(asked, max_new_tokens=writing.max_new_tokens, beams=writing.beams)
    return [{"input": prompt, "text": text} for prompt, text in zip(prompts, written, strict=True)]


def _classes(found: Trained, model: AdaptedModel, inputs: Sequence[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for name, tensors in _read(inputs, model, pairs=found.pairs):
            on_device = {key: value.to(model.device) for key, value in tensors.items()}
            logits = model.logits(model.features(on_device).float())
            if found.numbers:
                rows.append({"input": name, "value": logits.item()})
                continue
            probabilities = logits.softmax(1)[0]
            best = probabilities.topk(min(3, len(probabilities)))
            ranked = [
                {"label": found.class_names[i], "probability": p}
                for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
            rows.append({"input": name, **ranked[0], "next": ranked[1:]})
    return rows


def _read(inputs: Sequence[str], model: AdaptedModel, *, pairs: bool) -> list[tuple[str, dict[str, Tensor]]]:
    """Each input's name and model inputs."""
    reads = model.backbone.input
    if isinstance(reads, ImageInput):
        return [(name, {reads.name: prepare(decoded([Path(name)], [name]), reads)}) for name in inputs]
    return [(text, dict(reads.tokenize([_pair(text) if pairs else text]))) for text in _texts(inputs)]


def _pair(text: str) -> tuple[str, str]:
    first, tab, second = text.partition("\t")
    if not tab:
        raise UserError(f"the run was trained on pairs of texts, and {text!r} is one text; put a tab between two")
    return first, second


def _texts(inputs: Sequence[str]) -> list[str]:
    """The texts themselves, and the lines of files."""
    texts: list[str] = []
    for text in inputs:
        texts += _lines(Path(text[1:])) if text.startswith("@") else [text]
    return texts


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read texts from {path}: {error}") from error
