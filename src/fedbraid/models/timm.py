"""Backbones from timm: `timm:NAME` downloads the weights, `timm:NAME@FILE` reads a local safetensors file.

`timm:NAME:PIXELS` and `timm:NAME:PIXELS@FILE` read images of another size than the weights were trained on: learned
positions are interpolated, and a vision transformer's cost falls with the number of its patches.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fedbraid.core import ImageInput
from fedbraid.errors import UserError
from fedbraid.models.backbones import Backbone
from fedbraid.models.torchvision import make_torchvision_importable


def load_timm(name: str) -> Backbone:
    """The timm model of a name `timm:NAME[:PIXELS][@FILE]`, without its classifier."""
    timm = _import_timm()
    from timm.data.config import resolve_model_data_config

    model, _, file = name.removeprefix("timm:").partition("@")
    architecture, colon, side = model.partition(":")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        raise UserError(f"timm has no model {architecture!r}; near names: {', '.join(near) or 'none'}")
    pixels = _pixels(side, name) if colon else None
    resized: dict[str, Any] = {"img_size": pixels} if pixels else {}
    try:
        module = timm.create_model(architecture, pretrained=not file, num_classes=0, **resized)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the weights of {name!r} cannot be downloaded ({str(error).splitlines()[0]}); "
            f"give a local file as 'timm:{model}@FILE'"
        ) from error
    except (TypeError, AssertionError) as error:
        raise UserError(
            f"{architecture} cannot be made for images of another size ({error}); give 'timm:{architecture}'"
        ) from error
    _check_patches(module, pixels, name)
    if file:
        _load_weights(module, Path(file).expanduser(), name, resized=pixels is not None)
    data = resolve_model_data_config(module)
    channels, size = data["input_size"][0], pixels or data["input_size"][1]
    reads = ImageInput(size, channels, tuple(data["mean"]), tuple(data["std"]))
    width = int(module.num_features)  # type: ignore[arg-type]
    return Backbone(name, module.float().eval(), reads, width, _pool, _tokens)


def _pool(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    return module.forward_head(_tokens(module, inputs), pre_logits=True)  # type: ignore[operator]


def _tokens(module: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    return module.forward_features(inputs["pixel_values"])  # type: ignore[operator]


def _pixels(side: str, name: str) -> int:
    if not (side.isascii() and side.isdecimal() and int(side)):
        raise UserError(f"backbone {name!r}: {side!r} is no image size; give a whole number of pixels, as ':112'")
    return int(side)


def _check_patches(module: nn.Module, pixels: int | None, name: str) -> None:
    """`UserError` where patches would not cover the image."""
    patch: tuple[int, int] | None = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    if pixels and patch and any(pixels % side for side in patch):
        raise UserError(
            f"backbone {name!r}: {pixels} pixels are no multiple of its patches' {patch[0]}; choose another"
        )


def _import_timm():
    make_torchvision_importable()
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"timm backbones need an extra that is not installed: pip install 'fedbraid[timm]' ({error})"
        ) from error
    return timm


def _load_weights(module: nn.Module, file: Path, name: str, *, resized: bool) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise UserError(f"the weights file of {name!r} is missing: {file}")
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file} is damaged or no safetensors file ({error}); download it again") from error
    wanted = module.state_dict()
    tensors |= _positions(module, tensors) if resized else {}
    classifier = ("head.", "head_dist.", "fc.", "classifier.")
    extra = [key for key in tensors if key not in wanted and not key.startswith(classifier)]
    missing = [key for key in wanted if key not in tensors]
    wrong = [key for key in wanted if key in tensors and tensors[key].shape != wanted[key].shape]
    if extra or missing or wrong:
        detail = f"{len(missing)} missing, {len(extra)} unknown, {len(wrong)} of another shape"
        example = (missing + extra + wrong)[0]
        raise UserError(f"the weights in {file} do not fit {name!r}: {detail}, for example {example!r}")
    module.load_state_dict({key: tensors[key] for key in wanted})


def _positions(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Learned positions as the module's grid of patches needs them; nothing where they fit, or there are none."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    held, wanted = tensors.get("pos_embed"), getattr(module, "pos_embed", None)
    if held is None or wanted is None or held.shape[-1] != wanted.shape[-1]:
        return {}  # what does not fit at all is told of below
    grid, special = list(module.patch_embed.grid_size), module.num_prefix_tokens  # type: ignore[union-attr]
    return {"pos_embed": resample_abs_pos_embed(held, grid, num_prefix_tokens=special)}  # type: ignore[arg-type]
