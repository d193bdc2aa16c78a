"""The base model with a merged update added to its weights, written in its own library's format.

An adapter names layers as they are called in the class of model that it was trained on: with a head for language
modelling, say, or without. The class is that of the adapter's configuration where this names one, or the first in which
all layers exist. Sums are taken in fp64 and stored as fp32: rounded to bf16, a small update would be lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fedbraid.errors import UserError
from fedbraid.low_rank import Factors
from fedbraid.merging.agreement import common
from fedbraid.merging.folders import START, AdapterFolder
from fedbraid.models import load_backbone
from fedbraid.models.backbones import TINY, quietly
from fedbraid.models.peft_files import BESIDE_WEIGHTS
from fedbraid.models.torchvision import make_torchvision_importable

BESIDE = (*BESIDE_WEIGHTS, "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja")
"""What a model folder may hold to read its inputs."""
_OF_TASK = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
_TIMM_FILE = "model.safetensors"


def load_base(name: str, adapters: Sequence[AdapterFolder], layers: Mapping[str, tuple[int, int]]) -> nn.Module:
    """The base model in fp32, as a class that has all `layers` (d_out, d_in) and what the adapters trained whole.

    Raises `UserError` where the model cannot be loaded, lacks a layer, has it in another shape, or has tied its weight.
    """
    problem = ""
    for model in _candidates(name, adapters):
        problem = _misfit(model, layers, adapters[0].whole)
        if not problem:
            _check_apart(model, [*(f"{name}.weight" for name in layers), *map(place_of, adapters[0].whole)])
            return model
    raise UserError(f"--base {name!r} does not fit the adapters: {problem}; give the model that they were trained on")


def weight_rows(model: nn.Module, layer: str, shape: tuple[int, int]) -> Tensor:
    """A layer's weight turned to (d_out x d_in): a view, also of GPT-2's Conv1D and of an embedding."""
    module = model.get_submodule(layer)
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach().T if _turned(module) else weight.detach().view(shape)


def add_to(model: nn.Module, layer: str, update: Factors | Tensor) -> None:
    """Adds an update to the layer's weight, which is changed."""
    dense = update if isinstance(update, Tensor) else update[0] @ update[1]
    weight = weight_rows(model, layer, (dense.shape[0], dense.shape[1]))
    weight.copy_(weight.double() + dense)


def put_whole(model: nn.Module, whole: Mapping[str, Tensor]) -> None:
    """Puts tensors that were trained whole in their places in the model."""
    state = model.state_dict()
    for name, tensor in whole.items():
        state[place_of(name)].copy_(tensor)


def place_of(name: str) -> str:
    """The name in the model of a tensor in an adapter's file."""
    return name.removeprefix(START).replace(".base_layer.", ".")


def save_model(model: nn.Module, name: str, out: Path) -> None:
    """The model in its own format, with what its folder holds to read inputs."""
    if name.startswith("timm:"):
        from safetensors.torch import save_file

        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, out / _TIMM_FILE)
        return
    from transformers.utils.hub import cached_file

    with quietly():
        model.save_pretrained(out)  # type: ignore[operator]
    for file in BESIDE:
        found = cached_file(_source(name), file, _raise_exceptions_for_missing_entries=False)
        if found:
            (out / file).parent.mkdir(exist_ok=True)
            (out / file).write_bytes(Path(found).read_bytes())


def reload_model(kind: type[nn.Module], name: str, out: Path) -> nn.Module:
    """What `save_model` wrote of the base model of that name, read again as the same class."""
    if name.startswith("timm:"):
        return load_backbone(f"{name.partition('@')[0]}@{out / _TIMM_FILE}").module
    return _pretrained(kind, str(out), {})


def _candidates(name: str, adapters: Sequence[AdapterFolder]) -> Iterator[nn.Module]:
    if name.startswith("timm:"):
        yield load_backbone(name).module
        return
    make_torchvision_importable()
    import transformers

    config = _config(name)
    own = (common(adapters, "auto_mapping") or {}).get("base_model_class")
    named = [own, _OF_TASK.get(common(adapters, "task_type") or ""), *(config.architectures or []), "AutoModel"]
    for title in dict.fromkeys(title for title in named if title):
        found = getattr(transformers, title, None)
        if found is not None and hasattr(found, "from_pretrained"):
            yield _pretrained(found, _source(name), _head_size(adapters[0].whole))


def _config(name: str):
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(_source(name), trust_remote_code=False)
    except Exception as error:  # a damaged or missing file makes the library raise errors of many kinds
        raise UserError(
            f"--base {name!r} cannot be loaded ({str(error).strip().splitlines()[0]}); give a hub id (needs a network "
            "or a filled cache), the folder of a model, or timm:NAME"
        ) from error


def _pretrained(of, source: str, extra: Mapping[str, int]) -> nn.Module:
    try:
        with quietly():
            return of.from_pretrained(source, trust_remote_code=False, dtype=torch.float32, **extra).eval()
    except Exception as error:  # as above
        first = str(error).strip().splitlines()[0]
        raise UserError(f"the base model in {source} cannot be loaded as {of.__name__}: {first}") from error


def _head_size(whole: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of classes of a classifier that was trained with the adapters, as the model must be built for it."""
    for name in ("score", "classifier", "classifier.out_proj"):
        if f"{START}{name}.weight" in whole:
            return {"num_labels": whole[f"{START}{name}.weight"].shape[0]}
    return {}


def _source(name: str) -> str:
    return str(TINY) if name == "tiny" else str(Path(name).expanduser()) if name.startswith("~") else name


def _misfit(model: nn.Module, layers: Mapping[str, tuple[int, int]], whole: Mapping[str, Tensor]) -> str:
    """What of the adapters has no place in the model; empty where all has."""
    modules, state = dict(model.named_modules()), model.state_dict()
    for name, shape in layers.items():
        weight = getattr(modules.get(name), "weight", None)
        if weight is None:
            return f"it has no layer {name!r}"
        held = tuple(weight.T.shape) if _turned(modules[name]) else tuple(weight.shape)
        if held != shape:
            return f"its layer {name!r} is {held}, the adapters' is {shape}"
    for name, tensor in whole.items():
        if place_of(name) not in state or state[place_of(name)].shape != tensor.shape:
            return f"it has no place for {place_of(name)!r} of shape {tuple(tensor.shape)}"
    return ""


def _check_apart(model: nn.Module, changed: Sequence[str]) -> None:
    """`UserError` where one of these weights is another one too: an adapter changes the first alone."""
    named = list(model.named_parameters(remove_duplicate=False))
    held = dict(named)
    for place in changed:
        others = [name for name, parameter in named if name != place and parameter is held.get(place)]
        if others:
            raise UserError(
                f"{place!r} and {others[0]!r} are one weight in the base model, and the adapters change the first "
                "alone; one model cannot hold that, so choose --format adapter"
            )


def _turned(module: nn.Module) -> bool:
    """Whether a module keeps its weight as (d_in x d_out)."""
    return isinstance(module, nn.Embedding) or type(module).__name__ == "Conv1D"
