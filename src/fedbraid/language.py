"""From a configuration to what a run on prompts with answers is made of: wording, model, objective and exam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from fedbraid import config as configs
from fedbraid.config import Config
from fedbraid.config.sections import GenerationConfig
from fedbraid.core import PromptInput
from fedbraid.data import Dataset, Party, Stream, source_of
from fedbraid.data.known import holds_prompts
from fedbraid.data.prompts import Prompts
from fedbraid.errors import UserError
from fedbraid.local.generation import Written
from fedbraid.local.objectives import NextToken
from fedbraid.local.text_scores import computable
from fedbraid.models.causal import load_causal
from fedbraid.models.language import LanguageModel

MAX_LENGTH = 512
"""The longest row of tokens, where backbone.max_length says nothing."""


def is_language(config: Config) -> bool:
    """Whether the run is on prompts with answers, which a language model writes."""
    return holds_prompts(config.data.name, config.data.answer_column)


def check_settings(config: Config) -> None:
    """`UserError` for a setting of language models in a run on other data, and the other way round."""
    data, backbone, training = config.data, config.backbone, config.training
    if is_language(config):
        _refuse("means nothing to a language model; remove it", "backbone.pooling", backbone.pooling, "auto")
        _refuse("means nothing to a language model; remove it", "data.pair_column", data.pair_column, None)
        return
    why = (
        f"is for language models, and {data.name!r} holds no prompts with answers; remove it, or name the column of "
        "the answers of a table of yours with data.answer_column"
    )
    _refuse(why, "data.prompt_column", data.prompt_column, None)
    _refuse(why, "data.answer_column", data.answer_column, None)
    _refuse(why, "data.category_column", data.category_column, None)
    _refuse(why, "data.template", data.template, "plain")
    _refuse(why, "data.match", data.match, "auto")
    _refuse(why, "backbone.dtype", backbone.dtype, "fp32")
    _refuse(why, "training.label_smoothing", training.label_smoothing, 0)
    _refuse(why, "training.gradient_checkpointing", training.gradient_checkpointing, False)
    usual = GenerationConfig()
    for name, value in config.generation:
        _refuse(why, f"generation.{name}", value, getattr(usual, name))


def _refuse(why: str, setting: str, value: object, usual: object) -> None:
    if value != usual:
        raise UserError(f"{setting} = {value!r} {why}")


def template(config: Config) -> str:
    """How prompts are worded (see `data.prompts`): plain is the wording of a known data set, lines for one's own."""
    known = source_of(config.data.name)
    if config.data.template != "plain":
        return config.data.template
    return known.template if known else "lines"


def load_model(config: Config, device: torch.device) -> LanguageModel:
    """The language model of a configuration on this device, with its adapter."""
    values, training = config.backbone, config.training
    backbone = load_causal(values.name, max_length=values.max_length or MAX_LENGTH, dtype=values.dtype, device=device)
    return LanguageModel(
        backbone,
        configs.adapter(config),
        device=device,
        precision=training.precision,
        checkpointing=training.gradient_checkpointing,
    )


def measurable(dataset: Dataset) -> Dataset:
    """The data set with the scores that can be computed here, those of its answers' tokens among them.

    `UserError` where a package is missing.
    """
    return replace(dataset, scores=tuple(dict.fromkeys([*computable(dataset.scores), "loss", "perplexity"])))


def learned(config: Config, dataset: Dataset, stream: Stream) -> dict[str, Any]:
    """What clients train on and what is counted of what the model writes."""
    known, writing = source_of(config.data.name), config.generation
    asked = config.data.match
    exam = Written(
        match=asked if asked != "auto" else known.match if known else "text",
        scores=dataset.scores,
        categories=tuple(dataset.class_names[c] for c in stream.order),
        max_new_tokens=writing.max_new_tokens,
        batch_size=writing.batch_size,
        beams=writing.beams,
    )
    return {"objective": NextToken(config.training.label_smoothing), "exam": exam}


def noted(
    dataset: Dataset, clients: Mapping[str, Party], evaluators: Mapping[str, Party], input: PromptInput
) -> Dataset:
    """The data set with a note of how many prompts had to be cut."""
    samples = {id(party.samples): party.samples for party in (*clients.values(), *evaluators.values())}
    cut = sum(part.cut for part in samples.values() if isinstance(part, Prompts))
    note = f"{cut} prompts lost their beginning, to be no longer than {input.length} tokens with their answers"
    return replace(dataset, note="; ".join(filter(None, [dataset.note, note]))) if cut else dataset
