"""The user's own tables: csv, tsv, parquet, json and jsonl files, or a folder with train* and test* files."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fedbraid.data.rows import Columns, Rows, Sample, Splits, concatenated
from fedbraid.errors import UserError

if TYPE_CHECKING:
    import datasets

KINDS: Mapping[str, str] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
}
TRAIN = ("train",)
TEST = ("test", "val", "validation")
"""Names of splits, the preferred one first: validation serves as test only where there is no test split."""


def read_tables(path: Path, columns: Columns, modality: str | None = None) -> Splits:
    """The rows of a file, or of the train* and test* files of a folder."""
    if path.is_file():
        return _splits([path], [], columns, modality)
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in KINDS)
    train = _named(files, TRAIN)
    if not train:
        raise UserError(
            f"{path}: no file name starts with 'train' among {[file.name for file in files]}; "
            "name the files train* and test*, or give the path of one file"
        )
    test = next((found for name in TEST if (found := _named(files, (name,)))), [])
    for split in (train, test):
        if len({file.suffix.lower() for file in split}) > 1:
            raise UserError(f"{path}: {[file.name for file in split]} are of several kinds; keep one of them")
    return _splits(train, test, columns, modality)


def _named(files: Sequence[Path], starts: tuple[str, ...]) -> list[Path]:
    return [file for file in files if file.name.lower().startswith(starts)]


def _splits(train: list[Path], test: list[Path], columns: Columns, modality: str | None) -> Splits:
    tables = {file: _parsed(file) for file in [*train, *test]}
    first = tables[train[0]]
    modality = modality or _modality(first.column_names, columns, str(train[0]))
    rows = {file: rows_of(table, columns, modality, file.name, file.parent) for file, table in tables.items()}
    return Splits(
        modality,
        concatenated([rows[file] for file in train]),
        concatenated([rows[file] for file in test]) if test else None,
        declared_classes(first, columns),
    )


def _modality(names: Sequence[str], columns: Columns, place: str) -> str:
    """What the table holds; a column that the user named himself wins over one of the default name."""
    present = [kind for kind in ("image", "text") if getattr(columns, kind) in names]
    named = [kind for kind in present if getattr(columns, kind) != getattr(Columns(), kind)]
    if len(named or present) == 1:
        return (named or present)[0]
    if present:
        raise UserError(f"{place} has both {columns.image!r} and {columns.text!r}; leave one of the two columns out")
    raise UserError(
        f"{place} has neither {columns.text!r} nor {columns.image!r} among its columns {list(names)}; "
        "name the one to read with data.text_column or data.image_column"
    )


def _parsed(file: Path) -> datasets.Dataset:
    """The table, held in memory; what `datasets` caches goes to a folder that is gone afterwards."""
    import datasets

    options: dict[str, Any] = {}
    kind = KINDS[file.suffix.lower()]
    if kind == "csv":
        # One chunk, so that a column has one type; "NA" and "null" are words like others.
        options = {"sep": "\t" if file.suffix.lower() == ".tsv" else ",", "keep_default_na": False}
        options["chunksize"] = 1_000_000_000
    try:
        with TemporaryDirectory() as cache, quiet():
            table: Any = datasets.load_dataset(
                kind,
                data_files=glob.escape(str(file)),
                split="train",
                cache_dir=cache,
                keep_in_memory=True,
                **options,
            )
    except Exception as error:  # whatever a damaged file makes the parsers raise
        raise UserError(f"{file} cannot be read as {kind} with rows: {error.__cause__ or error}") from error
    return table


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars of `datasets`: a run has its own."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def declared_classes(table: datasets.Dataset, columns: Columns) -> tuple[str, ...]:
    """The class names that the table itself declares, in its order; empty where it declares none."""
    return tuple(getattr(table.features.get(columns.label), "names", ()))


def rows_of(table: datasets.Dataset, columns: Columns, modality: str, place: str, root: Path) -> Rows:
    """The rows of a table, checked cell by cell; image paths are relative to `root`."""
    import datasets

    sample = columns.image if modality == "image" else columns.text
    _require(table, place, {f"data.{modality}_column": sample, "data.label_column": columns.label})
    if columns.client != Columns().client:
        _require(table, place, {"data.client_column": columns.client})
    client = columns.client if columns.client in table.column_names else None
    names = declared_classes(table, columns)
    if isinstance(table.features[sample], datasets.Image):
        table = table.cast_column(sample, datasets.Image(decode=False))
    cells = table.select_columns(sorted({sample, columns.label, client or sample}))[:]
    places = tuple(f"{place}, row {number}" for number in range(1, len(table) + 1))
    read = (lambda cell, at: _image(cell, at, root)) if modality == "image" else _text
    return Rows(
        samples=tuple(map(read, cells[sample], places)),
        labels=tuple(_label(cell, at, names) for cell, at in zip(cells[columns.label], places, strict=True)),
        places=places,
        clients=tuple(_name(c, at, "client") for c, at in zip(cells[client], places, strict=True)) if client else None,
    )


def _require(table: datasets.Dataset, place: str, columns: Mapping[str, str]) -> None:
    for option, name in columns.items():
        if name not in table.column_names:
            raise UserError(f"{place} has no column {name!r}, its columns are {table.column_names}; set {option}")


def _text(cell: object, place: str) -> str:
    text = "" if cell is None else str(cell)
    if not text.strip():
        raise UserError(f"{place}: the text is empty; fill it in or take the row out")
    return text


def _image(cell: object, place: str, root: Path) -> Sample:
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes) and cell:
        return cell
    if not isinstance(cell, str) or not cell:
        raise UserError(f"{place}: the image is neither a path nor the bytes of a file")
    if not (root / cell).is_file():
        raise UserError(f"{place}: there is no image file {root / cell}; paths are relative to the table")
    return root / cell


def _label(cell: object, place: str, names: Sequence[str]) -> str:
    if names and isinstance(cell, int) and 0 <= cell < len(names):
        return names[cell]
    if names:
        raise UserError(f"{place}: the label is {cell!r}, but the table declares {len(names)} classes")
    return _name(cell, place, "label")


def _name(cell: object, place: str, what: str) -> str:
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    name = "" if cell is None or cell != cell else str(cell).strip()
    if not name:
        raise UserError(f"{place}: the {what} is empty; fill it in or take the row out")
    return name
