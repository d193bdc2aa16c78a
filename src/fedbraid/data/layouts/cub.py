"""CUB-200-2011 as its authors publish it: images by folders, and text files that link ids to what belongs to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedbraid.data.files import inside, need, pairs
from fedbraid.data.rows import Rows, Splits
from fedbraid.errors import UserError


def cub(path: Path) -> Splits:
    """The authors' own split, classes in their order and by their names, such as "001.Black_footed_Albatross"."""
    root = inside(path, "CUB_200_2011")
    folder = need(root / "images")
    species = dict(pairs(root / "classes.txt"))
    owner = dict(pairs(root / "image_class_labels.txt"))
    training = dict(pairs(root / "train_test_split.txt"))
    parts: dict[str, list[tuple[Path, str]]] = {"1": [], "0": []}
    for image, name in pairs(root / "images.txt"):
        number = _value(owner, image, root / "image_class_labels.txt")
        label = _value(species, number, root / "classes.txt")
        part = parts.get(_value(training, image, root / "train_test_split.txt"))
        if part is None:
            raise UserError(f"{root / 'train_test_split.txt'}: image {image} is neither 1 nor 0; get it anew")
        part.append((folder / name, label))
    train, test = (Rows.of(part, str(folder)) for part in parts.values())
    return Splits(train, test, tuple(species.values()))


def _value(table: Mapping[str, str], key: str, file: Path) -> str:
    if key not in table:
        raise UserError(f"{file} has no line for {key}; get it anew")
    return table[key]
