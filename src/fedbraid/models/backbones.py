"""Backbones: pre-trained models as feature extractors.

A backbone is named by a string: `tiny` (the one in this package), a Hugging Face hub id or local folder of a
transformers model, or `timm:NAME[:PIXELS][@WEIGHTS]`. Features are one vector a sample: the class token, the mean over
tokens, or the first decoder token of an encoder-decoder model.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fedbraid.core import ImageInput, Text, TextInput
from fedbraid.errors import UserError
from fedbraid.models.torchvision import make_torchvision_importable

Output = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
TINY = Path(__file__).parent / "tiny"
T = TypeVar("T")


def last_hidden_state(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """(n, tokens, width) after the last norm, of a transformers model."""
    return module(**inputs).last_hidden_state


@dataclass(frozen=True)
class Backbone:
    """A pre-trained module, what it reads, and how its output becomes one feature vector a sample.

    `tokens` is the output before it is pooled, (n, tokens, width).
    """

    name: str
    module: nn.Module
    input: ImageInput | TextInput
    width: int
    pool: Output
    tokens: Output = last_hidden_state


def load_backbone(name: str, *, pooling: str = "auto", max_length: int = 128) -> Backbone:
    """The backbone of that name, on the CPU in fp32. `pooling` is auto, cls, mean or decoder.

    Raises `UserError` where there is no such model, its files are damaged, or an extra is not installed.
    """
    if name.startswith("timm:"):
        from fedbraid.models.timm import load_timm

        return load_timm(name)
    return _load_transformers(name, pooling, max_length)


def _load_transformers(name: str, pooling: str, max_length: int) -> Backbone:
    source, config, module = load_pretrained(name, _load_module)
    pooling = _pooling(source, config, module) if pooling == "auto" else pooling
    _check_pooling(pooling, name, config)
    if _is_text(config):
        reads = _text_input(source, min(max_length, positions(config)), segments=_tells_segments(config))
    else:
        reads = _image_input(source, config)
    return Backbone(name, module.float().eval(), reads, _width(config), POOLS[pooling])


def load_pretrained(name: str, load: Callable[[str, Any], T]) -> tuple[str, Any, T]:
    """(where it lies, its configuration, what `load(source, config)` gives) of a hub id or a local folder.

    Whatever is wrong with it becomes a `UserError`.
    """
    make_torchvision_importable()
    from transformers import AutoConfig

    source = str(TINY) if name == "tiny" else name
    looks_local = source.startswith((".", "/", "~")) or Path(source).exists()
    source = str(Path(source).expanduser()) if looks_local else source
    if looks_local and not (Path(source) / "config.json").is_file():
        raise UserError(f"backbone {name!r}: {source} is no model folder (it has no config.json)")
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        return source, config, load(source, config)
    except Exception as error:  # a damaged file makes the libraries raise errors of many kinds
        hint = (
            ""
            if looks_local
            else ("; known are 'tiny', a hub id (needs a network or a filled cache), a model folder, and 'timm:NAME'")
        )
        raise UserError(f"backbone {name!r} cannot be loaded{hint}: {_first_line(error)}") from error


def _load_module(source: str, config: Any) -> nn.Module:
    """The model without its pooling layer where it has an optional one."""
    from transformers import AutoModel

    model_class = AutoModel._model_mapping.get(type(config), None)
    extra = {}
    if model_class is not None:
        import inspect

        while isinstance(model_class, tuple):
            model_class = model_class[0]
        if "add_pooling_layer" in inspect.signature(model_class.__init__).parameters:
            extra["add_pooling_layer"] = False
    return load_checked(AutoModel, source, config, **extra)


def load_checked(auto: Any, source: str, config: Any, **options: Any) -> nn.Module:
    """What transformers' class `auto` loads from there; every weight must be in the file."""
    with quietly():
        module, report = auto.from_pretrained(
            source,
            config=config,
            output_loading_info=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # refused below, by name
            **options,
        )
    missing, wrong = sorted(report["missing_keys"]), sorted(report["mismatched_keys"])
    if missing or wrong:
        detail = f"{len(missing)} missing, {len(wrong)} of another shape"
        example = missing[0] if missing else wrong[0][0]
        raise ValueError(f"its weights do not fit its config.json: {detail}, for example {example!r}")
    return module


@contextmanager
def quietly() -> Iterator[None]:
    """Loading shows no bar of transformers' own, and no report of weights without a place, such as an unused pooler."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _is_text(config) -> bool:
    return hasattr(config, "vocab_size")


def positions(config: Any) -> int:
    """The longest text that a model with learned positions can read; RoBERTa keeps the first rows for padding."""
    rows = getattr(config, "max_position_embeddings", None)
    reserved = config.pad_token_id + 1 if rows and "roberta" in config.model_type else 0
    return rows - reserved if rows else sys.maxsize


def _width(config) -> int:
    width = getattr(config, "hidden_size", None) or getattr(config, "d_model", None)
    if not width:
        raise UserError(f"a backbone of type {config.model_type!r} is not supported: it gives no sequence of tokens")
    return width


def _pooling(source: str, config, module: nn.Module) -> str:
    """The decoder token for encoder-decoders, a sentence encoder's own choice, the class token where there is one."""
    if getattr(config, "is_encoder_decoder", False):
        return "decoder"
    own = Path(source) / "1_Pooling" / "config.json"
    if own.is_file():
        return "mean" if json.loads(own.read_text()).get("pooling_mode_mean_tokens") else "cls"
    if not _is_text(config) and not any(name.endswith("cls_token") for name, _ in module.named_parameters()):
        return "mean"  # Swin and its like
    sentence_encoder = any(word in str(source).lower() for word in ("minilm", "sentence-t"))
    return "mean" if sentence_encoder or reads_left_to_right(config) else "cls"


def reads_left_to_right(config: Any) -> bool:
    """Whether it is a language model whose first token sees nothing of the text."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    causal, masked = AutoModelForCausalLM._model_mapping, AutoModelForMaskedLM._model_mapping
    return type(config) in causal and type(config) not in masked


def _check_pooling(pooling: str, name: str, config) -> None:
    """`UserError` where the model does not give what is to be pooled."""
    if pooling not in POOLS:
        raise UserError(f"backbone.pooling = {pooling!r} for {name!r} is none of auto, {', '.join(POOLS)}")
    has_decoder = bool(getattr(config, "is_encoder_decoder", False))
    if has_decoder != (pooling == "decoder"):
        fitting = "decoder" if has_decoder else "cls or mean"
        raise UserError(f"backbone.pooling = {pooling!r} does not fit {name!r}; it takes {fitting}")


def _class_token(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    return last_hidden_state(module, inputs)[:, 0]


def _mean_token(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    hidden = last_hidden_state(module, inputs)
    mask = inputs.get("attention_mask")
    if mask is None:
        return hidden.mean(1)
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp_min(1)


def _decoder_token(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """The decoder's state after its start token alone: one vector that has read the whole input."""
    start: int = module.config.decoder_start_token_id  # type: ignore[union-attr]
    ids = torch.full((len(inputs["input_ids"]), 1), start, device=inputs["input_ids"].device)
    return module(**inputs, decoder_input_ids=ids).last_hidden_state[:, 0]


POOLS: Mapping[str, Output] = {"cls": _class_token, "mean": _mean_token, "decoder": _decoder_token}


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a model, with a token to pad with, on the right; `UserError` where there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # as above
        raise UserError(f"backbone {source!r} has no usable tokenizer: {_first_line(error)}") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens) + 1:
        raise UserError(f"backbone {source!r} has no usable tokenizer: its files are missing, or hold no vocabulary")
    tokenizer.padding_side = "right"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise UserError(
            f"backbone {source!r}: its tokenizer names neither a padding token nor an end-of-sequence token; name one "
            "as pad_token or eos_token in its tokenizer_config.json"
        )
    return tokenizer


def _tells_segments(config) -> bool:
    """Whether the model was taught by `token_type_ids` which of two texts a token is from, as BERT and ELECTRA were."""
    return getattr(config, "type_vocab_size", 0) > 1 and not getattr(config, "is_encoder_decoder", False)


def _text_input(source: str, max_length: int, *, segments: bool) -> TextInput:
    tokenizer = load_tokenizer(source)
    length = min(max_length, tokenizer.model_max_length)

    def tokenize(texts: Sequence[Text]) -> dict[str, Tensor]:
        paired = [text for text in texts if not isinstance(text, str)]
        if paired and len(paired) < len(texts):
            raise UserError(f"{len(paired)} of {len(texts)} texts are pairs; give pairs alone, or none")
        sides = [list(side) for side in zip(*paired, strict=True)] if paired else [list(texts)]
        rows = tokenizer(
            *sides,
            padding=True,
            truncation=True,
            max_length=length,
            return_tensors="pt",
            return_token_type_ids=segments and bool(paired),
        )
        names = ("input_ids", "attention_mask", "token_type_ids")
        return {name: rows[name] for name in names if name in rows}

    return TextInput(tokenize)


def _image_input(source: str, config) -> ImageInput:
    """Size and normalisation from the folder's preprocessor configuration where there is one."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        processor, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except OSError:
        processor = {}
    channels = getattr(config, "num_channels", 3)
    size = processor.get("crop_size") or processor.get("size") or {}
    size = size.get("height") or size.get("shortest_edge") if isinstance(size, Mapping) else size
    mean = tuple(processor.get("image_mean") or [0.5] * channels)
    std = tuple(processor.get("image_std") or [0.5] * channels)
    own = getattr(config, "image_size", 224)
    return ImageInput(size or (own if isinstance(own, int) else own[0]), channels, mean, std)


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
