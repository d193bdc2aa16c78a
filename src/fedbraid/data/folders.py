"""What lies at a path: a table, a folder of tables, or a folder of images.

A folder of images is root/class/*.png, or root/train/class/* with root/test/class/* (or val, validation).
"""

from __future__ import annotations

from pathlib import Path

from fedbraid.data.decode import SUFFIXES
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


def _images(root: Path) -> Splits:
    """One row for each image below a folder that is named as its class."""
    train = root / "train"
    if not train.is_dir():
        return Splits("image", _classes(root))
    test = next((root / name for name in TEST if (root / name).is_dir()), None)
    return Splits("image", _classes(train), _classes(test) if test else None)


def _classes(root: Path) -> Rows:
    folders = {path.name: path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    parts = [_class(name, folders[name]) for name in natural(folders)]
    if not any(len(part) for part in parts):
        raise UserError(
            f"{root} holds neither images in folders named as their classes nor a table; expected "
            f"{root.name}/<class>/<image> ({', '.join(SUFFIXES)}) "
            f"or train* and test* files ({', '.join(KINDS)})"
        )
    return concatenated(parts)


def _class(name: str, folder: Path) -> Rows:
    files = [file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
    by_name = {str(file.relative_to(folder)): file for file in files}
    ordered = tuple(by_name[key] for key in natural(by_name))
    return Rows(ordered, (name,) * len(ordered), tuple(map(str, ordered)))
