"""Causal language models as backbones: loaded with their tokenizer, in a chosen precision.

A backbone is named as in `models.backbones`: a Hugging Face hub id, or a local folder.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from fedbraid.core import PromptInput
from fedbraid.errors import UserError
from fedbraid.models.backbones import load_checked, load_pretrained, load_tokenizer, positions, reads_left_to_right

Precision = Literal["fp32", "bf16", "4bit"]


@dataclass(frozen=True)
class CausalBackbone:
    """A causal language model with its tokenizer; `stops` are the tokens at which writing ends."""

    name: str
    module: Any
    tokenizer: Any
    input: PromptInput
    stops: tuple[int, ...]

    @property
    def width(self) -> int:
        """The width of the final hidden states."""
        return self.module.get_output_embeddings().in_features

    @property
    def positions(self) -> int:
        """The longest text, prompt and answer together, that it can read and write."""
        return positions(self.module.config)


def load_causal(
    name: str, *, max_length: int = 512, dtype: Precision = "fp32", device: str | torch.device = "cpu"
) -> CausalBackbone:
    """The language model of that name. Frozen weights are held in `dtype`; under 4bit they lie on `device` at once.

    Raises `UserError` where there is no such model, it writes no text, its files are damaged, or an extra is missing.
    """
    options = _options(dtype, torch.device(device))

    def load(source: str, config: Any) -> Any:
        from transformers import AutoModelForCausalLM

        if not reads_left_to_right(config):
            raise ValueError(f"a model of type {config.model_type!r} is no causal language model and writes no text")
        return load_checked(AutoModelForCausalLM, source, config, **options)

    source, config, module = load_pretrained(name, load)
    tokenizer = load_tokenizer(source)
    if tokenizer.eos_token_id is None:
        raise UserError(f"backbone {name!r}: its tokenizer names no end-of-sequence token (eos_token)")
    stops = _stops(module, tokenizer)
    module.generation_config = _greedy(stops, tokenizer.pad_token_id)
    encoder = Encoder(name, tokenizer, stops)
    length = min(max_length, positions(config), tokenizer.model_max_length)
    reads = PromptInput(encoder.encode, length, tokenizer.pad_token_id, encoder.start)
    return CausalBackbone(name, module.eval(), tokenizer, reads, stops)


@dataclass(frozen=True)
class Encoder:
    """Turns prompts and answers into tokens, so that a prompt's tokens are the same with its answer and without."""

    name: str
    tokenizer: Any
    stops: Sequence[int]

    @property
    def start(self) -> int | None:
        """The token that the tokenizer itself puts in front of a text."""
        found = self.tokenizer("a")["input_ids"][:1]
        return found[0] if found and found[0] == self.tokenizer.bos_token_id else None

    def encode(self, prompts: Sequence[str], answers: Sequence[str], chat: bool) -> list[tuple[list[int], list[int]]]:
        """(tokens of the prompt, tokens of the answer with its end) of each."""
        if chat:
            rendered = [self._chat(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
            prompts, answers = [prompt for prompt, _ in rendered], [answer for _, answer in rendered]
        alone = self._tokens(prompts, chat)
        whole = self._tokens([prompt + answer for prompt, answer in zip(prompts, answers, strict=True)], chat)
        found: list[tuple[list[int], list[int]]] = []
        for prompt, tokens, answer in zip(alone, whole, answers, strict=True):
            goes_on = tokens[: len(prompt)] == prompt
            found.append((prompt, self._ended(tokens[len(prompt) :] if goes_on else self._tokens([answer], True)[0])))
        return found

    def _tokens(self, texts: Sequence[str], complete: bool) -> list[list[int]]:
        """The tokens of each text, without an end; `complete` texts already hold what opens them."""
        end = self.tokenizer.eos_token_id
        rows = self.tokenizer(list(texts), add_special_tokens=not complete)["input_ids"]
        return [row[:-1] if not complete and row and row[-1] == end else row for row in rows]

    def _ended(self, answer: list[int]) -> list[int]:
        return answer if answer and answer[-1] in self.stops else [*answer, self.tokenizer.eos_token_id]

    def _chat(self, prompt: str, answer: str) -> tuple[str, str]:
        """Both in the model's chat format: what ends the answer is its own token for that, where it has one."""
        if not self.tokenizer.chat_template:
            raise UserError(
                f"data.template = 'chat': backbone {self.name!r} has no chat template; choose 'plain', or a model "
                "that was tuned to follow instructions"
            )
        asked = [{"role": "user", "content": prompt}]
        before = self.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        asked.append({"role": "assistant", "content": answer})
        whole = self.tokenizer.apply_chat_template(asked, tokenize=False)
        if not whole.startswith(before):
            raise UserError(
                f"data.template = 'chat': the chat template of backbone {self.name!r} changes the prompt once it is "
                "answered, so that an answer cannot be told from it; choose 'plain'"
            )
        return before, whole[len(before) :].rstrip()


def _options(dtype: Precision, device: torch.device) -> dict[str, Any]:
    """How transformers is to hold the weights."""
    if dtype != "4bit":
        return {"dtype": torch.bfloat16 if dtype == "bf16" else torch.float32}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "backbone.dtype = '4bit' needs an extra that is not installed: pip install 'fedbraid[4bit]'; "
            "or choose 'bf16'"
        )
    from transformers import BitsAndBytesConfig

    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": quantised, "dtype": torch.bfloat16, "device_map": {"": str(device)}}


def _stops(module: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokenizer's own end, and what the model's authors end a text or a turn with."""
    named = getattr(module.generation_config, "eos_token_id", None)
    named = [] if named is None else [named] if isinstance(named, int) else list(named)
    return tuple(dict.fromkeys([tokenizer.eos_token_id, *named]))


def _greedy(stops: Sequence[int], padding: int) -> Any:
    """Writing without chance: what the authors' own settings say of sampling does not hold."""
    from transformers import GenerationConfig

    return GenerationConfig(do_sample=False, eos_token_id=list(stops), pad_token_id=padding, use_cache=True)
