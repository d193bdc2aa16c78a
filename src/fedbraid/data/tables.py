"""The user's own tables: csv, tsv, parquet, json and jsonl files, or a folder with train* and test* files."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from fedbraid.data.files import within
from fedbraid.data.prompts import ONE_CLASS, Prompt
from fedbraid.data.rows import Columns, Rows, Sample, Splits, concatenated
from fedbraid.errors import UserError

if TYPE_CHECKING:
    import datasets
    import pyarrow

KINDS: Mapping[str, str] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
}
TEST = ("test", "val", "validation")
"""Names of the test split, the preferred one first: validation serves as test only where there is no test split."""


def read_tables(
    path: Path,
    columns: Columns,
    modality: str | None = None,
    *,
    train: str = "train",
    tests: Sequence[str] = TEST,
) -> Splits:
    """The rows of a file, or of the files of a folder whose names start with `train` and one of `tests`."""
    if path.is_file():
        return _splits([path], [], columns, modality)
    training = tables_at(path, train)
    testing = next((found for name in tests if (found := tables_at(path, name))), [])
    if not training and not testing:
        raise UserError(
            f"{path}: no file name starts with {train!r} among {[file.name for file in tables_at(path)]}; "
            "name the files train* and test*, or give the path of one file"
        )
    for split in (training, testing):
        if len({file.suffix.lower() for file in split}) > 1:
            raise UserError(f"{path}: {[file.name for file in split]} are of several kinds; keep one of them")
    return _splits(training, testing, columns, modality)


def tables_at(path: Path, start: str = "") -> list[Path]:
    """The tables at a path, a folder or one of them itself, whose names start like this."""
    if not path.is_dir():
        return [path] if _is_table(path, start) else []
    return [within(file, path) for file in sorted(path.iterdir()) if _is_table(file, start)]


def _is_table(file: Path, start: str) -> bool:
    return file.suffix.lower() in KINDS and file.name.lower().startswith(start) and file.is_file()


def _splits(train: list[Path], test: list[Path], columns: Columns, modality: str | None) -> Splits:
    tables = {file: _parsed(file) for file in [*train, *test]}
    place = (train or test)[0]
    first = tables[place]
    modality = modality or _modality(first.column_names, columns, str(place))
    rows = {file: rows_of(table, columns, modality, file.name, file.parent) for file, table in tables.items()}
    return Splits(
        concatenated([rows[file] for file in train]),
        concatenated([rows[file] for file in test]) if test else None,
        declared_classes(first, columns),
    )


def _modality(names: Sequence[str], columns: Columns, place: str) -> str:
    """What the table holds; a column that the user named himself wins over one of the default name."""
    if columns.answer:
        return "language"
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
    if not file.stat().st_size:
        raise UserError(f"{file} is empty; fill it in or take it away")
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
        table.data.table.validate(full=True)  # pyarrow reads text that is not UTF-8 without a word
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
    """The rows of a table, checked cell by cell, images when they are decoded; their paths are relative to `root`."""
    import datasets

    if modality == "language":
        return _prompt_rows(table, columns, place)
    sample = columns.image if modality == "image" else columns.text
    _require(table, place, {f"data.{modality}_column": sample, "data.label_column": columns.label})
    if columns.client != Columns().client:
        _require(table, place, {"data.client_column": columns.client})
    client = columns.client if columns.client in table.column_names else None
    names = declared_classes(table, columns)
    if isinstance(table.features[sample], datasets.Image):
        table = table.cast_column(sample, datasets.Image(decode=False))
    cells = table.select_columns(sorted({columns.label, client or columns.label}))[:]
    places = tuple(f"{place}, row {number}" for number in range(1, len(table) + 1))
    column = table.data.column(sample)
    if modality == "image":
        samples = tuple(partial(_image, column, number, at, root) for number, at in enumerate(places))
    else:
        samples = _texts(column, places, columns.blank)
    if columns.pair and modality == "text":
        _require(table, place, {"data.pair_column": columns.pair})
        samples = tuple(zip(samples, _texts(table.data.column(columns.pair), places, columns.blank), strict=True))
    return Rows(
        samples=samples,
        labels=tuple(_label(cell, at, names) for cell, at in zip(cells[columns.label], places, strict=True)),
        places=places,
        clients=tuple(_name(c, at, "client") for c, at in zip(cells[client], places, strict=True)) if client else None,
    )


def _prompt_rows(table: datasets.Dataset, columns: Columns, place: str) -> Rows:
    """Prompts with their answers; all are of one class where no column tells classes."""
    _require(table, place, {"data.prompt_column": columns.text, "data.answer_column": columns.answer})
    beside = {"data.category_column": columns.label, "data.client_column": columns.client}
    _require(table, place, {key: name for key, name in beside.items() if name not in (Columns.label, Columns.client)})
    places = tuple(f"{place}, row {number}" for number in range(1, len(table) + 1))
    cells = {name: table.data.column(name).to_pylist() for name in table.column_names}
    prompts = [
        Prompt(_text(text, at, columns.blank), _answers(answer, at))
        for text, answer, at in zip(cells[columns.text], cells[columns.answer], places, strict=True)
    ]
    names = declared_classes(table, columns)
    labels, clients = cells.get(columns.label), cells.get(columns.client)
    return Rows(
        samples=tuple(prompts),
        labels=tuple(
            _label(cell, at, names) for cell, at in zip(labels or [ONE_CLASS] * len(table), places, strict=True)
        ),
        places=places,
        clients=tuple(_name(c, at, "client") for c, at in zip(clients, places, strict=True)) if clients else None,
    )


def _answers(cell: object, place: str) -> tuple[str, ...]:
    """The answers of a cell, which holds one of them or a list."""
    answers = [answer for answer in (cell if isinstance(cell, list) else [cell]) if answer is not None]
    if not answers or not all(str(answer).strip() for answer in answers):
        raise UserError(f"{place}: an answer is empty; fill it in or take the row out")
    return tuple(_text(answer, place, blank=False) for answer in answers)


def _require(table: datasets.Dataset, place: str, columns: Mapping[str, str]) -> None:
    for option, name in columns.items():
        if name not in table.column_names:
            raise UserError(f"{place} has no column {name!r}, its columns are {table.column_names}; set {option}")


def _texts(column: pyarrow.ChunkedArray, places: Sequence[str], blank: bool) -> tuple[str, ...]:
    return tuple(_text(cell, at, blank) for cell, at in zip(column.to_pylist(), places, strict=True))


def _text(cell: object, place: str, blank: bool) -> str:
    if isinstance(cell, (list, dict)):
        raise UserError(f"{place}: {str(cell)[:40]!r} is a {type(cell).__name__} and no text; write it as text")
    text = "" if cell is None else str(cell)
    if not text.strip() and not blank:
        raise UserError(f"{place}: the text is empty; fill it in or take the row out")
    return text


def _image(column: pyarrow.ChunkedArray, number: int, place: str, root: Path) -> Sample:
    cell = column[number].as_py()
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
