"""ImageNet-1k and its relatives: classes are folders named by WordNet ids, such as n01443537, a goldfish.

Classes are always in the order of their ids, which is also that of the hub's copies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fedbraid.data.files import MissingFile, inside, lines, need, need_folder, pairs
from fedbraid.data.folders import class_folders
from fedbraid.data.rows import Rows, Splits
from fedbraid.errors import UserError

ID = r"n\d{8}"


def imagenet_1k(path: Path) -> Splits:
    """`train` and `val` with a folder a class, or Kaggle's folder, which lists the classes of `val` in a file."""
    images = inside(path, "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
    names = _class_names(need(images / "train"), path / "LOC_synset_mapping.txt")
    train = class_folders(images / "train", names)
    solution = path / "LOC_val_solution.csv"
    if solution.is_file():
        test = _solved(solution, need(images / "val"), names)
    elif any((images / "val").glob("*.JPEG")):
        raise MissingFile(f"{images / 'val'} has no folders of classes, and there is no {solution} that tells them")
    else:
        test = class_folders(need(images / "val"), names)
    return Splits(train, test, tuple(names.values()))


def tiny_imagenet(path: Path) -> Splits:
    """Folders of classes for training; the classes of the validation images, which serve as test, are in a file."""
    root = inside(path, "tiny-imagenet-200")
    names = names_of(lines(root / "wnids.txt"), need(root / "words.txt"))
    train = class_folders(need(root / "train"), names)
    images = need(root / "val" / "images")
    annotations = pairs(root / "val" / "val_annotations.txt")
    test = Rows.of(((images / image, names.get(wnid, wnid)) for image, wnid in annotations), str(images))
    return Splits(train, test, tuple(names.values()))


def imagenet_r(path: Path) -> Splits:
    """A folder a class, and no split; README.txt names the classes."""
    return _unsplit(inside(path, "imagenet-r"))


def imagenet_a(path: Path) -> Splits:
    """A folder a class, and no split; README.txt names the classes."""
    return _unsplit(inside(path, "imagenet-a"))


def names_of(wnids: Iterable[str], file: Path) -> dict[str, str]:
    """The name of each id, in the order of the ids, from a file with lines "id name".

    An id that the file does not name is its own name, also where there is no such file; names that several ids share
    are told apart by the id.
    """
    content = "\n".join(lines(file)) if file.is_file() else ""
    found = dict(re.findall(rf"^({ID})[ \t]+(.+)$", content, re.MULTILINE))
    names = {wnid: found.get(wnid, wnid).replace("_", " ") for wnid in sorted(wnids)}
    owners = Counter(names.values())
    return {wnid: name if owners[name] == 1 else f"{name} ({wnid})" for wnid, name in names.items()}


def _unsplit(root: Path) -> Splits:
    names = _class_names(need_folder(root), root / "README.txt")
    return Splits(class_folders(root, names), order=tuple(names.values()))


def _class_names(root: Path, file: Path) -> dict[str, str]:
    return names_of((folder.name for folder in root.iterdir() if re.fullmatch(ID, folder.name)), file)


def _solved(solution: Path, images: Path, names: dict[str, str]) -> Rows:
    """The images of a flat folder, by a file with lines "image,id and boxes"."""
    answers = pairs(solution, ",")[1:]
    classes = [(image, wnid) for image, answer in answers for wnid in answer.split()[:1]]
    if len(classes) < len(answers):
        raise UserError(f"{solution} names no class for {len(answers) - len(classes)} of its images; get it anew")
    return Rows.of(((images / f"{image}.JPEG", names.get(wnid, wnid)) for image, wnid in classes), str(images))
