"""The data sets known by name, and where their rows come from: a package, a local folder, or the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedbraid.data.folders import read_path
from fedbraid.data.rows import Columns, Rows, Splits, natural
from fedbraid.data.sampling import held_out
from fedbraid.data.tables import declared_classes, quiet, rows_of
from fedbraid.errors import UserError


@dataclass(frozen=True)
class Source:
    """One known data set: `tasks` and `augment` are the defaults of a run on it.

    `folder` is where the hub's repository keeps the files. `drop` names classes that are left out.
    `own_order` says whether the classes keep the order that the hub declares; otherwise they are sorted by
    name, so that every copy of the data set numbers them alike.
    """

    name: str
    modality: str
    classes: int
    tasks: int
    licence: str
    origin: str
    augment: str = "none"
    hub: str | None = None
    config: str | None = None
    folder: str = ""
    columns: Columns = field(default_factory=Columns)
    drop: tuple[str, ...] = ()
    own_order: bool = True


DATASETS: Mapping[str, Source] = {
    "digits": Source(
        name="digits",
        modality="image",
        classes=10,
        tasks=5,
        licence="CC BY 4.0",
        origin="UCI optical recognition of handwritten digits, the copy inside scikit-learn; 8x8 grey",
    ),
    "cifar100": Source(
        name="cifar100",
        modality="image",
        classes=100,
        tasks=10,
        licence="none stated",
        origin="Krizhevsky 2009, Learning multiple layers of features from tiny images",
        augment="crop_flip",
        hub="uoft-cs/cifar100",
        folder="cifar100",
        columns=Columns(image="img", label="fine_label"),
    ),
    "eurosat": Source(
        name="eurosat",
        modality="image",
        classes=10,
        tasks=5,
        licence="MIT",
        origin="Helber et al. 2019, EuroSAT; the RGB version, splits of Neumann et al. 2019",
        augment="flip",
        hub="timm/eurosat-rgb",
        folder="data",
    ),
    "clinc150": Source(
        name="clinc150",
        modality="text",
        classes=150,
        tasks=10,
        licence="CC BY 3.0",
        origin="Larson et al. 2019, An evaluation dataset for intent classification; without out-of-scope",
        hub="clinc/clinc_oos",
        config="plus",
        folder="plus",
        columns=Columns(label="intent"),
        drop=("oos",),
        own_order=False,
    ),
}


def read_source(source: Source, path: Path | None, columns: Columns) -> Splits:
    """The rows of a known data set: from `path` where it is given, otherwise from the package or the hub."""
    if source.hub is None and path is not None:
        raise UserError(f"{source.name} comes with scikit-learn and is read from nowhere else; leave data.path out")
    if source.hub is None:
        return _digits()
    splits = _hub(source, columns) if path is None else _local(source, path, columns)
    return Splits(
        splits.modality,
        _without(splits.train, source.drop),
        None if splits.test is None else _without(splits.test, source.drop),
        splits.order if source.own_order else (),
    )


def _local(source: Source, path: Path, columns: Columns) -> Splits:
    """The rows of a local copy, laid out as on the hub or, for CLINC150, as by its authors."""
    pairs = path if path.name == "data_full.json" else path / "data_full.json"
    if pairs.is_file():
        return _pairs(pairs)
    inner = path / source.folder
    return read_path(inner if inner.is_dir() else path, columns, source.modality)


def _without(rows: Rows, classes: tuple[str, ...]) -> Rows:
    return rows.take([i for i, label in enumerate(rows.labels) if label not in classes]) if classes else rows


def _digits() -> Splits:
    """scikit-learn's 1,797 digits, 0..16 scaled to 0..255, with a fixed stratified split of 80 to 20."""
    from sklearn.datasets import load_digits

    flat, target = load_digits(return_X_y=True)
    pixels = (np.asarray(flat) * (255 / 16)).round().astype(np.uint8).reshape(-1, 8, 8)
    labels = tuple(str(label) for label in target)
    rows = Rows(tuple(pixels), labels, tuple(f"digits, row {i + 1}" for i in range(len(labels))))
    train, test = held_out(labels, 0.2, seed=0)
    return Splits("image", rows.take(train), rows.take(test), tuple(natural(set(labels))))


def _pairs(file: Path) -> Splits:
    """CLINC150's own file: split -> list of [text, intent]."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        train, test = (_pair_rows(content[split], f"{file.name}, {split}") for split in ("train", "test"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read as CLINC150 (split -> list of [text, intent]): {error!r}") from error
    return Splits("text", train, test)


def _pair_rows(pairs: list[tuple[str, str]], place: str) -> Rows:
    places = tuple(f"{place} row {number}" for number in range(1, len(pairs) + 1))
    return Rows(tuple(text for text, _ in pairs), tuple(intent for _, intent in pairs), places)


def _hub(source: Source, columns: Columns) -> Splits:
    import datasets

    try:
        with quiet():
            loaded: Any = datasets.load_dataset(str(source.hub), source.config, split=["train", "test"])
    except Exception as error:  # offline, not cached, moved: the hub's clients raise many kinds
        raise UserError(
            f"{source.name} could not be read from the hub ({source.hub}): {error}. Connect to the "
            "network, set HF_HOME to a cache that holds it, or give a folder in the hub's layout: "
            "--set data.path=FOLDER"
        ) from error
    train_rows, test_rows = (
        rows_of(table, columns, source.modality, f"{source.hub} {split}", Path())
        for table, split in zip(loaded, ("train", "test"), strict=True)
    )
    return Splits(source.modality, train_rows, test_rows, declared_classes(loaded[0], columns))
