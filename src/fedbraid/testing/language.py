"""A tiny language world: six categories of prompts, answered by the two words that tell the category."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from fedbraid.data import Dataset, Table
from fedbraid.models.torchvision import make_torchvision_importable
from fedbraid.testing.words import TELLING, WORDS, sentence

MARKS = ("<unk>", "<s>", "</s>")


def random_llama(folder: Path) -> Path:
    """Writes a Llama of two layers with random weights, and its tokenizer."""
    make_torchvision_importable()
    from transformers import LlamaConfig

    return save_causal(LlamaConfig(**SMALL), folder)


SMALL: dict[str, Any] = {
    "vocab_size": len(MARKS) + len(WORDS) + 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
"""A small language model, in the words of most families' configurations."""


def save_causal(config: Any, folder: Path) -> Path:
    """Writes a language model of this configuration with random weights, and a tokenizer that knows `WORDS`."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    _save_tokenizer(folder)
    return folder


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*MARKS, *WORDS, "|", "\n"])}
    pieces = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = dict(zip(("unk_token", "bos_token", "eos_token"), MARKS, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=pieces, **names).save_pretrained(folder)


def prompts() -> Dataset:
    """Six categories of prompts with one answer each; test prompts have two right answers."""
    draws = torch.Generator().manual_seed(0)
    tables: list[Table] = []
    for count in (8, 3):
        labels = torch.arange(6).repeat_interleave(count)
        answers = [f"{TELLING[2 * c]} {TELLING[2 * c + 1]}" for c in labels.tolist()]
        right = tuple((answer,) if count == 8 else (answer, f"the {answer}") for answer in answers)
        tables.append(Table(labels, texts=tuple(sentence(c, draws) for c in labels.tolist()), answers=right))
    fingerprint = hashlib.sha256(repr([(table.texts, table.answers) for table in tables]).encode()).hexdigest()
    train, test = tables
    names = tuple(f"category {c}" for c in range(6))
    return Dataset("prompts", "language", names, train, test, fingerprint, len(train))
