"""Images of any kind to one uint8 tensor, decoded once.

Images of one size stay as they are up to `stored_size`; otherwise each is resized so that its shorter side is
`stored_size` and cropped to the square in its middle. All grey images give one channel, anything else RGB.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedbraid.data.files import ordinary
from fedbraid.data.rows import Sample
from fedbraid.errors import UserError
from fedbraid.progress import track

if TYPE_CHECKING:
    from PIL.Image import Image

PIXEL_CAP = 64_000_000
"""Larger images are refused: a small file can claim any size."""

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")

_GREY = ("1", "L", "LA", "I", "I;16", "I;16B")
_ORIENTATION = 0x0112
_TURNABLE = ("JPEG", "MPO", "TIFF", "WEBP")  # PNG would have to be decoded to know


def decoded(samples: Sequence[Sample], places: Sequence[str], *, stored_size: int = 256) -> Tensor:
    """uint8 (n, channels, height, width); `UserError` naming the place of an image that cannot be read."""
    heads = [
        _head(sample, place) for sample, place in track(list(zip(samples, places, strict=True)), "reading image sizes")
    ]
    sizes = {size for size, _ in heads}
    channels = 1 if all(grey for _, grey in heads) else 3
    one_size = len(sizes) == 1 and min(next(iter(sizes))) <= stored_size
    width, height = sizes.pop() if one_size else (stored_size, stored_size)
    result = np.empty((len(samples), channels, height, width), dtype=np.uint8)

    def store(index: int) -> None:
        image = _opened(samples[index], places[index])
        try:
            plain = _eight_bit(_upright(image)).convert("L" if channels == 1 else "RGB")
            pixels = np.asarray(_fitted(plain, width, height)).reshape(height, width, channels)
        except (OSError, ValueError, SyntaxError) as error:
            raise _unreadable(places[index], error) from error
        result[index] = pixels.transpose(2, 0, 1)

    with ThreadPoolExecutor() as pool:
        for _ in track(pool.map(store, range(len(samples))), "decoding images", total=len(samples)):
            pass
    return torch.from_numpy(result)


def _head(sample: Sample, place: str) -> tuple[tuple[int, int], bool]:
    """((width, height) as it will be shown, whether it is grey), from the head of the file alone."""
    with _opened(sample, place) as image:
        width, height = image.size
        turned = image.format in _TURNABLE and image.getexif().get(_ORIENTATION, 1) >= 5
        return (height, width) if turned else (width, height), image.mode in _GREY


def _opened(sample: Sample, place: str) -> Image:
    from PIL import Image

    sample = sample() if callable(sample) else sample
    if isinstance(sample, Path):
        ordinary(sample)
    try:
        if isinstance(sample, (Path, bytes)):
            image = Image.open(io.BytesIO(sample) if isinstance(sample, bytes) else sample, formats=FORMATS)
        else:
            image = Image.fromarray(sample)
    except (OSError, ValueError, SyntaxError, TypeError, AttributeError, Image.DecompressionBombError) as error:
        raise _unreadable(place, error) from error
    if image.width * image.height > PIXEL_CAP:
        raise UserError(
            f"{place}: the image claims {image.width} x {image.height} pixels, more than the "
            f"{PIXEL_CAP:,} that are accepted; make it smaller or take it out of the data"
        )
    return image


def _upright(image: Image) -> Image:
    """As the camera was held."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image) if image.format in _TURNABLE else image


def _eight_bit(image: Image) -> Image:
    """16-bit greys by their upper byte: Pillow's own conversion would clip them."""
    if not image.mode.startswith("I"):
        return image
    from PIL import Image

    return Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))


def _fitted(image: Image, width: int, height: int) -> Image:
    from PIL import Image

    if image.size == (width, height):
        return image
    scale = max(width / image.width, height / image.height)
    size = max(round(image.width * scale), width), max(round(image.height * scale), height)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + width, top + height))


def _unreadable(place: str, error: Exception) -> UserError:
    return UserError(f"{place}: the image cannot be read ({error}); repair it or take it out of the data")
