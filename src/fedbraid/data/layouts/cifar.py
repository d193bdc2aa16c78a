"""CIFAR-10 and CIFAR-100 in their binary version: records of one or two label bytes and 3,072 bytes of pixels.

The Python version of the same data is pickled, and reading a pickle runs whatever code it holds: it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedbraid.data.files import inside, lines, need
from fedbraid.data.rows import Rows, Splits, concatenated
from fedbraid.errors import UserError

PIXELS = 3 * 32 * 32


def cifar10(path: Path) -> Splits:
    """Five training files and a test file, of records with one label."""
    root = _binary(path, "cifar-10-batches-bin", "cifar-10-batches-py")
    names = lines(root / "batches.meta.txt")
    train = [_records(root / f"data_batch_{number}.bin", names, labels=1) for number in range(1, 6)]
    return Splits(concatenated(train), _records(root / "test_batch.bin", names, labels=1), tuple(names))


def cifar100(path: Path) -> Splits:
    """One file a split, of records with a coarse and a fine label; the fine one is read."""
    root = _binary(path, "cifar-100-binary", "cifar-100-python")
    names = lines(root / "fine_label_names.txt")
    train, test = (_records(root / f"{split}.bin", names, labels=2) for split in ("train", "test"))
    return Splits(train, test, tuple(names))


def _binary(path: Path, binary: str, pickled: str) -> Path:
    root = inside(path, binary)
    if path.name == pickled or (root == path and (path / pickled).exists()):
        raise UserError(
            f"{path} holds the Python version, {pickled}: it is pickled, and reading a pickle can run any code, "
            f"so it is never opened; get the binary version, {binary}, from https://www.cs.toronto.edu/~kriz/cifar.html"
        )
    return root


def _records(file: Path, names: Sequence[str], labels: int) -> Rows:
    """The images of a file, height by width by colour; of several label bytes the last one counts."""
    content = np.fromfile(need(file), dtype=np.uint8)
    if not len(content) or len(content) % (labels + PIXELS):
        raise UserError(
            f"{file} has {len(content)} bytes, not a multiple of the {labels + PIXELS} of a record; get it anew"
        )
    records = content.reshape(-1, labels + PIXELS)
    numbers = records[:, labels - 1]
    if numbers.max() >= len(names):
        raise UserError(f"{file} has the label {numbers.max()}, but there are {len(names)} class names; get it anew")
    images = np.ascontiguousarray(records[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Rows.of(zip(images, (names[number] for number in numbers.tolist()), strict=True), file.name)
