"""Backbones from timm: `timm:NAME` downloads the weights, `timm:NAME@FILE` reads a local safetensors file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from fedbraid.core import ImageInput
from fedbraid.errors import UserError
from fedbraid.models.backbones import Backbone
from fedbraid.models.torchvision import make_torchvision_importable


def load_timm(name: str) -> Backbone:
    """The timm model of a name `timm:NAME[@FILE]`, without its classifier."""
    timm = _import_timm()
    from timm.data.config import resolve_model_data_config

    architecture, _, file = name.removeprefix("timm:").partition("@")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        raise UserError(f"timm has no model {architecture!r}; near names: {', '.join(near) or 'none'}")
    try:
        module = timm.create_model(architecture, pretrained=not file, num_classes=0)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the weights of {name!r} cannot be downloaded ({str(error).splitlines()[0]}); "
            f"give a local file as 'timm:{architecture}@FILE'"
        ) from error
    if file:
        _load_weights(module, Path(file).expanduser(), name)
    data = resolve_model_data_config(module)
    channels, size, _ = data["input_size"]
    reads = ImageInput(size, channels, tuple(data["mean"]), tuple(data["std"]))
    width = int(module.num_features)  # type: ignore[arg-type]
    return Backbone(name, module.float().eval(), reads, width, _pool, _tokens)


def _pool(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    return module.forward_head(_tokens(module, inputs), pre_logits=True)  # type: ignore[operator]


def _tokens(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    return module.forward_features(inputs["pixel_values"])  # type: ignore[operator]


def _import_timm():
    make_torchvision_importable()
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"timm backbones need an extra that is not installed: pip install 'fedbraid[timm]' ({error})"
        ) from error
    return timm


def _load_weights(module: nn.Module, file: Path, name: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise UserError(f"the weights file of {name!r} is missing: {file}")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file} is damaged or no safetensors file ({error}); download it again") from error
    wanted = module.state_dict()
    classifier = ("head.", "head_dist.", "fc.", "classifier.")
    extra = [key for key in tensors if key not in wanted and not key.startswith(classifier)]
    missing = [key for key in wanted if key not in tensors]
    wrong = [key for key in wanted if key in tensors and tensors[key].shape != wanted[key].shape]
    if extra or missing or wrong:
        detail = f"{len(missing)} missing, {len(extra)} unknown, {len(wrong)} of another shape"
        example = (missing + extra + wrong)[0]
        raise UserError(f"the weights in {file} do not fit {name!r}: {detail}, for example {example!r}")
    module.load_state_dict({key: tensors[key] for key in wanted})
