"""Images on their way into a backbone: augmented, resized, normalised, in batches, on the device they are on.

All randomness is drawn from the generator given, on its own device, so the same seed augments alike on every
machine and no global generator is read or set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fedbraid.core import ImageInput
from fedbraid.errors import UserError

SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
"""The share of the area and the aspect of a resized crop: the usual values of ImageNet training."""

_LUMA = (0.299, 0.587, 0.114)


class Augment(Protocol):
    """Float images in, float images out, square; `size` is what the backbone reads."""

    def __call__(self, images: Tensor, size: int, generator: torch.Generator) -> Tensor: ...


def prepare(
    images: Tensor, spec: ImageInput, *, augment: str = "none", generator: torch.Generator | None = None
) -> Tensor:
    """(n, spec.channels, spec.size, spec.size), normalised, from uint8 images of any size, 1 or 3 channels.

    Images that are not square lose what lies outside the square in their middle, except to a resized crop,
    which draws from the whole image. `augment` is a name of `AUGMENTATIONS`; all but "none" need the
    generator.
    """
    check_augment(augment)
    _check_spec(spec)
    floats = _channels(images.float() / 255, spec.channels)
    if augment == "none":
        floats = square(floats)
    elif generator is None:
        raise ValueError(f"augmentation {augment!r} needs a generator")
    else:
        floats = AUGMENTATIONS[augment](floats, spec.size, generator)
    if floats.shape[-2:] != (spec.size, spec.size):
        floats = F.interpolate(floats, size=(spec.size, spec.size), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (floats.new_tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    return (floats - mean) / std


def check_augment(augment: str) -> None:
    """`UserError` where there is no augmentation of this name."""
    if augment not in AUGMENTATIONS:
        raise UserError(f"there is no augmentation {augment!r}; known are {', '.join(AUGMENTATIONS)}")


def square(images: Tensor) -> Tensor:
    """The square in the middle of each image.

    >>> square(torch.zeros(1, 3, 4, 7)).shape
    torch.Size([1, 3, 4, 4])
    """
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[..., top : top + side, left : left + side]


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image mirrored left to right with probability one half."""
    mirrored = _uniform(len(images), generator=generator).to(images.device) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)


def padded_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image shifted at random by up to an eighth of its side (4 of 32 pixels); black fills in."""
    count, _, height, width = images.shape
    reach = max(height // 8, 1)
    shift = torch.randint(0, 2 * reach + 1, (2, count, 1), generator=generator, device=generator.device)
    top, left = shift.to(images.device)
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    padded = F.pad(images, (reach, reach, reach, reach)).permute(0, 2, 3, 1)
    index = torch.arange(count, device=images.device).view(-1, 1, 1)
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def resized_crop(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A box of random area and aspect of each image, resized to (size, size)."""
    from kornia.geometry.transform import crop_and_resize

    height, width = images.shape[-2:]
    area, aspect, x, y = _uniform(4, len(images), generator=generator)
    area = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * area)
    aspect = RATIO[0] * (RATIO[1] / RATIO[0]) ** aspect
    wide, high = (area * aspect).sqrt().clamp(1, width), (area / aspect).sqrt().clamp(1, height)
    left, top = x * (width - wide), y * (height - high)
    right, bottom = left + wide - 1, top + high - 1
    corners = torch.stack([left, top, right, top, right, bottom, left, bottom], dim=1).view(-1, 4, 2)
    return crop_and_resize(images, corners.to(images), (size, size))


def _none(images: Tensor, size: int, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    return square(images)


def _flip(images: Tensor, size: int, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    return flip(square(images), generator)


def _crop_flip(images: Tensor, size: int, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    return flip(padded_crop(square(images), generator), generator)


def _resized_crop_flip(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    return flip(resized_crop(images, size, generator), generator)


AUGMENTATIONS: Mapping[str, Augment] = {
    "none": _none,
    "flip": _flip,
    "crop_flip": _crop_flip,
    "resized_crop_flip": _resized_crop_flip,
}


def _uniform(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def _channels(images: Tensor, channels: int) -> Tensor:
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1)
    return (images * images.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _check_spec(spec: ImageInput) -> None:
    if spec.channels not in (1, 3):
        raise UserError(f"the backbone reads {spec.channels} channels; images have 1 (grey) or 3 (RGB)")
    if len(spec.mean) != spec.channels or len(spec.std) != spec.channels:
        raise UserError(
            f"the backbone reads {spec.channels} channels but its mean and std have {len(spec.mean)} and "
            f"{len(spec.std)} numbers; give one for each channel"
        )
