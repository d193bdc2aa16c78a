"""Where the rows of a data set come from: a package, the user's copy of what its authors publish, or the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fedbraid.data.files import MissingFile, inside
from fedbraid.data.rows import Columns, Rows, Splits
from fedbraid.data.tables import declared_classes, quiet, read_tables, rows_of, tables_at
from fedbraid.errors import UserError


@dataclass(frozen=True)
class HubTables:
    """How the hub keeps a data set, and a local folder with the same files.

    `folder` is where the files lie in the repository, `train` and `test` name the splits. `drop` names classes that
    are left out. `own_order` says whether the classes keep the order that the tables declare; otherwise they are
    sorted by name, so that every copy of the data set numbers them alike. `suffix` tells the hub's files from the
    authors' own, where these are tables too.
    """

    config: str | None = None
    folder: str = ""
    train: str = "train"
    test: str | None = "test"
    columns: Columns = field(default_factory=Columns)
    drop: tuple[str, ...] = ()
    own_order: bool = True
    suffix: str = ""


@dataclass(frozen=True)
class Source:
    """One data set: what it holds, the defaults of a run on it, and the ways to its rows.

    `classes` and `tasks` are how many there are by default; `subset` says that the data have more classes, of which
    the first ones are kept unless others are asked for. There are three ways to the rows: `read` takes a file or
    folder of the user's, which is laid out as `layout` says and published at `page`; `built_in` needs none; `hub` is a
    repository with `tables`, or read by `from_hub`. `scores` are what a model is measured by, the main one first.
    Where the data are prompts, `template` is how they are worded (see `data.prompts`) and `match` how a written answer
    is compared with the right ones (see `local.text_scores`).
    """

    name: str
    modality: str
    classes: int
    tasks: int
    read: Callable[[Path], Splits] | None = None
    built_in: Callable[[], Splits] | None = None
    hub: str | None = None
    from_hub: Callable[[], Splits] | None = None
    tables: HubTables = field(default_factory=HubTables)
    augment: str = "none"
    subset: bool = False
    scores: tuple[str, ...] = ("accuracy",)
    template: str = "lines"
    match: Literal["text", "final", "option"] = "text"
    layout: str = ""
    page: str = ""
    licence: str = "none stated"
    origin: str = ""


def read_source(source: Source, path: Path | None, named: Mapping[str, str]) -> Splits:
    """The rows of a data set: from `path` where it is given; `named` are the columns that the user names himself."""
    columns = replace(source.tables.columns, **named)
    if path is not None:
        splits = _local(source, path, columns)
    elif source.built_in:
        splits = source.built_in()
    elif source.hub:
        splits = _hub(source, columns)
    else:
        raise UserError(f"{source.name} comes from a file or folder of yours; {_advice(source)}")
    _check(source, splits)
    return _without_blank(splits) if columns.blank else splits


def _check(source: Source, splits: object) -> None:
    if not isinstance(splits, Splits):
        raise UserError(f"{source.name}: its reader gives a {type(splits).__name__}; let it give fedbraid.data.Splits")
    if splits.train and splits.modality != source.modality:
        raise UserError(
            f"{source.name} says that it holds {source.modality}s, but its reader gives {splits.modality}s; "
            "a text is a str or a pair of them, a prompt a fedbraid.data.Prompt (modality language), an image a "
            "pathlib.Path, bytes or an uint8 array"
        )


def _local(source: Source, path: Path, columns: Columns) -> Splits:
    """The rows of a local copy: in tables as on the hub, or as its authors lay it out."""
    tables = source.tables
    folder = inside(path, tables.folder)
    if (
        source.hub
        and not source.from_hub
        and any(file.name.endswith(tables.suffix) for file in tables_at(folder, tables.train))
    ):
        tests = (tables.test,) if tables.test else ()
        return _arranged(tables, read_tables(folder, columns, source.modality, train=tables.train, tests=tests))
    if source.read is None and source.built_in:
        raise UserError(f"{source.name} needs no data of yours and is read from nowhere else; leave data.path out")
    try:
        if source.read is None:
            raise MissingFile(f"{path} holds no table named {tables.train}*")
        return source.read(path)
    except MissingFile as error:
        hub = f"; or leave data.path out to read {source.hub} from the hub" if source.hub else ""
        raise UserError(f"{source.name}: {error}; {_advice(source)}{hub}") from error


def _hub(source: Source, columns: Columns) -> Splits:
    import datasets

    tables = source.tables
    names = [name for name in (tables.train, tables.test) if name]
    try:
        with quiet():
            if source.from_hub:
                return source.from_hub()
            loaded: Any = datasets.load_dataset(str(source.hub), tables.config, split=names)
    except Exception as error:  # offline, not cached, moved, gated: the hub's clients raise many kinds
        raise UserError(
            f"{source.name} could not be read from the hub ({source.hub}): {error}. Connect to the network, set "
            f"HF_HOME to a cache that holds it, or read a copy of your own; {_advice(source)}"
        ) from error
    rows = [
        rows_of(table, columns, source.modality, f"{source.hub} {name}", Path())
        for table, name in zip(loaded, names, strict=True)
    ]
    return _arranged(tables, Splits(*rows, order=declared_classes(loaded[0], columns)))


def _arranged(tables: HubTables, splits: Splits) -> Splits:
    """Without the classes that are dropped, in the order that holds for every copy."""
    return Splits(
        _without(splits.train, tables.drop),
        None if splits.test is None else _without(splits.test, tables.drop),
        splits.order if tables.own_order else (),
    )


def _without(rows: Rows, classes: tuple[str, ...]) -> Rows:
    return rows.take([i for i, label in enumerate(rows.labels) if label not in classes]) if classes else rows


def _without_blank(splits: Splits) -> Splits:
    parts = [rows for rows in (splits.train, splits.test) if rows is not None]
    filled = [rows.take([i for i, text in enumerate(rows.samples) if _is_filled(text)]) for rows in parts]
    count = sum(map(len, parts)) - sum(map(len, filled))
    notes = [splits.note, f"{count} samples without text left out" if count else ""]
    return Splits(*filled, order=splits.order, note="; ".join(filter(None, notes)))


def _is_filled(text: str | tuple[str, str]) -> bool:
    return bool(text.strip()) if isinstance(text, str) else all(part.strip() for part in text)


def _advice(source: Source) -> str:
    """What to do for a copy of one's own."""
    publication = f"the layout is {source.layout}: get it from {source.page}, put it into a folder and "
    return f"{publication if source.page else ''}name the folder or the archive with --set data.path=FOLDER"
