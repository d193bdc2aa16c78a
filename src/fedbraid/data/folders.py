"""What lies at a path: a table, a folder of tables, or a folder of images.

A folder of images is root/class/*.png, or root/train/class/* with root/test/class/* (or val, validation).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedbraid.data.decode import SUFFIXES
from fedbraid.data.files import MissingFile, within
from fedbraid.data.rows import Columns, Rows, Splits, concatenated, natural
from fedbraid.data.tables import KINDS, TEST, read_tables
from fedbraid.errors import UserError
from fedbraid.naming import printable


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
    parts = [_class(within(folders[name], root), labels.get(name, name), root) for name in natural(folders)]
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
        test = next((within(root / name, root) for name in TEST if (root / name).is_dir()), None)
        return Splits(class_folders(within(train, root)), class_folders(test) if test else None)
    except MissingFile as error:
        raise UserError(f"{error} or train* and test* files ({', '.join(KINDS)})") from error


def _class(folder: Path, label: str, root: Path) -> Rows:
    """The images at any depth; links to folders below are not followed, links to images stay inside `root`."""
    if any("\ud800" <= sign <= "\udfff" for sign in label):
        raise UserError(f"{root}: the folder {printable(label)} has a name that is no text in UTF-8; rename it")
    start = len(str(folder)) + 1
    found = {path[start:]: Path(path) for path in _image_files(str(folder), root)}
    return Rows.of(((found[key], label) for key in natural(found)), str(folder))


def _image_files(folder: str, root: Path) -> Iterator[str]:
    """The paths of all images, found without a question to the disk for each: there may be a million."""
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        try:
            entries = list(os.scandir(place))
        except OSError as error:
            raise UserError(f"the folder {place} cannot be read: {error.strerror}") from error
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."):
                yield str(within(Path(entry.path), root)) if entry.is_symlink() else entry.path
