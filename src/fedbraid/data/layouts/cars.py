"""Stanford Cars as its authors publish it: two folders of images, and MATLAB files with their classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedbraid.data.files import MissingFile, inside, need
from fedbraid.data.rows import Rows, Splits
from fedbraid.errors import UserError

TEST_LABELS = "cars_test_annos_withlabels.mat"


def cars(path: Path) -> Splits:
    """The authors' own split, classes in their order."""
    root = inside(path, "stanford_cars")
    devkit = need(root / "devkit")
    # One name has a slash ("Ram C/V Cargo Van"); copies by folders, and with them the hub's, write a dash.
    names = tuple(str(name).replace("/", "-") for name in _variable(devkit / "cars_meta.mat", "class_names"))
    labels = next((folder / TEST_LABELS for folder in (root, devkit) if (folder / TEST_LABELS).is_file()), None)
    if labels is None:
        raise MissingFile(f"there is no {root / TEST_LABELS} (the devkit's cars_test_annos.mat has no labels)")
    train = _rows(need(root / "cars_train"), devkit / "cars_train_annos.mat", names)
    return Splits(train, _rows(need(root / "cars_test"), labels, names), names)


def _rows(images: Path, file: Path, names: Sequence[str]) -> Rows:
    """The images that a file lists; classes are counted from 1."""
    table = _variable(file, "annotations")
    try:
        listed = [(str(name), int(number)) for name, number in zip(table["fname"], table["class"], strict=True)]
    except (IndexError, TypeError, ValueError) as error:
        raise UserError(f"{file}: its annotations have no 'fname' and 'class' ({error}); get it anew") from error
    for name, number in listed:
        if not 1 <= number <= len(names):
            raise UserError(f"{file}: {name} has the class {number}, but there are {len(names)}; get it anew")
    return Rows.of(((images / name, names[number - 1]) for name, number in listed), str(images))


def _variable(file: Path, name: str) -> Any:
    """An array of a MATLAB file."""
    from scipy.io import loadmat

    need(file)
    try:
        return np.atleast_1d(loadmat(file, squeeze_me=True)[name])
    except Exception as error:  # whatever a damaged file makes the parser raise
        raise UserError(f"{file} cannot be read as a MATLAB file with {name!r} ({error}); get it anew") from error
