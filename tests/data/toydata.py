"""Small data sets built by hand, for the tests of this folder."""

from collections.abc import Sequence

import torch

from fedbraid.data import Dataset, Table


def toy_dataset(labels: Sequence[int], *, clients: Sequence[str] | None = None, test: Sequence[int] = (0,)) -> Dataset:
    """Grey 8x8 images whose every pixel is the sample's index, with these labels."""
    return Dataset(
        name="toy",
        modality="image",
        class_names=tuple(f"class{c}" for c in range(max(labels) + 1)),
        train=Table(torch.tensor(labels), images=_images(len(labels)), clients=clients and tuple(clients)),
        test=Table(torch.tensor(test), images=_images(len(test))),
        fingerprint="f" * 64,
        held=len(labels),
    )


def _images(count: int) -> torch.Tensor:
    return torch.arange(count).remainder(256).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
