"""Using what a run has learned: export it for other tools, or predict with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedbraid import checkpoint, runs
from fedbraid import config as configs
from fedbraid.algebra import Tensors
from fedbraid.core import ImageInput
from fedbraid.data import prepare
from fedbraid.data.decode import decoded
from fedbraid.errors import UserError
from fedbraid.experiment import device
from fedbraid.methods import Setting, make
from fedbraid.models import AdaptedModel, load_backbone, peft_files

FORMATS = ("peft", "merged")


@dataclass(frozen=True)
class Trained:
    """The model of a run as its last finished round left it, without the data it came from."""

    model: AdaptedModel
    weights: Tensors
    class_names: tuple[str, ...]


def trained(folder: Path) -> Trained:
    """The trained model of a run folder; `UserError` where no round is finished yet."""
    config = runs.read_config(folder)
    last = checkpoint.read(folder / "state")
    if last is None:
        raise UserError(f"{folder} has no finished round yet; run 'fedbraid resume {folder}' first")
    adapter = configs.adapter(config)
    training = configs.training(config, augment=False)
    method = make(configs.options(config), Setting(adapter, training, config.training.rounds))
    backbone = load_backbone(
        config.backbone.name, pooling=config.backbone.pooling, max_length=config.backbone.max_length
    )
    precision = config.training.precision
    model = AdaptedModel(backbone, adapter, device=device(config.run.device), precision=precision)
    names = tuple(name for task in runs.read_summary(folder)["task_classes"] for name in task)
    return Trained(model, method.predicting(last.state.shared), names)


def export_run(folder: Path, out: Path, *, format: str = "peft") -> Path:
    """Writes the model of a run to a new folder, as a PEFT adapter or merged into the backbone."""
    if format not in FORMATS:
        raise UserError(f"--format {format!r} is none of {', '.join(FORMATS)}")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; choose another --out")
    found = trained(folder)
    if found.model.adapter.kind == "prompt":
        raise UserError(f"{folder} tuned prompts, which neither format can hold; use the model with 'fedbraid predict'")
    out.mkdir(parents=True, exist_ok=True)
    backbone = found.model.backbone
    if format == "peft":
        peft_files.save_adapter(found.weights, found.model.adapter, backbone.name, out)
    else:
        peft_files.save_merged(found.weights, found.model.adapter, backbone, out)
    peft_files.save_head(found.weights, found.class_names, backbone.width, out)
    return out


def predict_run(folder: Path, inputs: Sequence[str]) -> list[dict[str, Any]]:
    """For each input its most probable class, with the probability and the next classes."""
    found = trained(folder)
    model = found.model
    model.load(found.weights)
    model.train(False)
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for name, tensors in _read(inputs, model):
            on_device = {key: value.to(model.device) for key, value in tensors.items()}
            probabilities = model.logits(model.features(on_device).float()).softmax(1)[0]
            best = probabilities.topk(min(3, len(probabilities)))
            ranked = [
                {"label": found.class_names[i], "probability": p}
                for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
            rows.append({"input": name, **ranked[0], "next": ranked[1:]})
    return rows


def _read(inputs: Sequence[str], model: AdaptedModel) -> list[tuple[str, dict[str, Tensor]]]:
    """Each input's name and model inputs."""
    reads = model.backbone.input
    if isinstance(reads, ImageInput):
        return [(name, {reads.name: prepare(decoded([Path(name)], [name]), reads)}) for name in inputs]
    texts: list[str] = []
    for text in inputs:
        texts += _lines(Path(text[1:])) if text.startswith("@") else [text]
    return [(text, dict(reads.tokenize([text]))) for text in texts]


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read texts from {path}: {error}") from error
