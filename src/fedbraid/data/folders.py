"""What lies at a path: a table, a folder of tables, or a folder of images.

A folder of images is root/class/*.png, or root/train/class/* with root/test/class/* (or val, validation).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from fedbraid.data.decode import SUFFIXES
from fedbraid.data.files import MissingFile
from fedbraid.data.rows import Columns, Rows, Splits, concatenated, natural
from fedbraid.data.tables import KINDS, TEST, read_tables
from fedbraid.errors import UserError


def read_path(path: Path, columns: Columns, modality: str | None = None) -> Splits:
    """The rows at a path; `modality` says what the tables hold where that is known."""
    files = list(path.iterdir()) if path.is_dir() else [path]
    if any(file.is_file() and file.suffix.lower() in KINDS for file in files):
        return read_tables(path, columns, modality)
    if path.is_dir():
        return _images(path)
    raise UserError(f"{path}: files of this kind cannot be read; known are {', '.join(KINDS)} and folders of images")


def class_folders(root: Path, names: Mapping[str, str] | None = None) -> Rows:
    """One row for each image below a folder that is named as its class; `names` gives a folder's class another name."""
    folders = {path.name: path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    labels = names or {}
    parts = [_class(folders[name], labels.get(name, name)) for name in natural(folders)]
    if not any(len(part) for part in parts):
        raise MissingFile(
            f"{root} holds no images in folders named as their classes; expected "
            f"{root.name}/<class>/<image> ({', '.join(SUFFIXES)})"
        )
    return concatenated(parts)


def _images(root: Path) -> Splits:
    train = root / "train"
    try:
        if not train.is_dir():
            return Splits(class_folders(root))
        test = next((root / name for name in TEST if (root / name).is_dir()), None)
        return Splits(class_folders(train), class_folders(test) if test else None)
    except MissingFile as error:
        raise UserError(f"{error} or train* and test* files ({', '.join(KINDS)})") from error


def _class(folder: Path, label: str) -> Rows:
    """The images at any depth, found without a question to the disk for each: there may be a million."""
    start = len(str(folder)) + 1
    found = {
        os.path.join(base, name)[start:]: Path(base, name)
        for base, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    }
    return Rows.of(((found[key], label) for key in natural(found)), str(folder))
