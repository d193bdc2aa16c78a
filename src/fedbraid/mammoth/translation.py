"""Command lines of fed-mammoth, the public code of LoRM, as configurations.

What is known of fed-mammoth stands in `tables` and `models`: for every flag its default there, and what a value is
called here. A flag that is not given has fed-mammoth's default, not ours, so that a command means the same. What would
change the result and cannot be honoured is refused; flags for logs have no effect. Where a flag, a model or a data set
is not quite the same here, its row has a note.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fedbraid.errors import UserError
from fedbraid.mammoth.models import MODELS, Model
from fedbraid.mammoth.rules import Flag, Settings, always
from fedbraid.mammoth.tables import DATA, NETWORKS, SHARED, Data

A_TASK = "it averages one adapter a task; the nearest here is --method {} of 'fedbraid run', one adapter for all tasks"
OWN_DATA = "there is no such data set here; 'fedbraid run --data PATH' reads your own"
UNTRAINED = "it is trained from nothing; fine-tuning begins with pre-trained weights"
ABSENT = {
    "lora": A_TASK.format("fedit"),
    "lora_pre": A_TASK.format("fedit"),
    "ffa_lora": A_TASK.format("ffa_lora"),
    "seq-mnist": OWN_DATA,
    "seq-isic": OWN_DATA,
    "joint-isic": OWN_DATA,
    "mlp": UNTRAINED,
    "resnet18": UNTRAINED,
}
"""Names of fed-mammoth that are refused, and why."""

Known = TypeVar("Known")


@dataclass(frozen=True)
class Row:
    """What became of a flag."""

    flag: str
    settings: Settings
    note: str

    @property
    def cells(self) -> list[str]:
        """Flag, settings and note in words."""
        made = ", ".join(f"{key} = {value}" for key, value in self.settings.items())
        return [self.flag, made or ("no setting" if self.note else "as it is here"), self.note]


@dataclass(frozen=True)
class Translation:
    """A command line as nested values of a configuration, and flag by flag."""

    values: Mapping[str, Mapping[str, Any]]
    rows: Sequence[Row]


def translate(arguments: Sequence[str]) -> Translation:
    """What a command line stands for; it may begin with `python main.py`.

    Raises `UserError` for what is unknown, missing, no value of its flag, or cannot be honoured.

    >>> command = "python main.py --model=fedavg --dataset=seq-cars --network=vit --batch_size 16 --lr 1e-5"
    >>> translate(command.split()).values["training"]["lr"]
    1e-05
    """
    given = _given(arguments)
    flags = {flag.name: flag for flag in _flags(given)}
    for name in given:
        if name not in flags:
            raise UserError(f"--{name} is no flag of fed-mammoth's {given['model']}{_near(name, flags)}")
    texts = {name: given.get(name, flag.default) for name, flag in flags.items()}
    missing = [f"--{name}" for name, text in texts.items() if text is None]
    if missing:
        raise UserError(f"fed-mammoth needs {', '.join(missing)}")
    rows = {name: _row(flag, texts, default=name not in given) for name, flag in flags.items()}
    values = _nested(row.settings for row in rows.values())
    return Translation(values, [row for name, row in rows.items() if row.settings or name in given])


def _given(arguments: Sequence[str]) -> dict[str, str]:
    """The texts of the flags by name."""
    words = list(arguments)
    while words and words[0] in ("python", "python3", "main.py", "./main.py"):
        words.pop(0)
    given: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise UserError(f"{word!r} is no flag; write --flag=value or --flag value, as for fed-mammoth")
        name, equals, text = word.removeprefix("--").partition("=")
        if not equals and (not words or words[0].startswith("--")):
            raise UserError(f"{word} has no value")
        given[name.replace("-", "_")] = text if equals else words.pop(0)
    return given


def _flags(given: Mapping[str, str]) -> list[Flag]:
    """All flags that the model, the data set and the network have."""
    model: Model = _known("model", given, MODELS)
    data: Data = _known("dataset", given, DATA)
    network = _known("network", given, NETWORKS)
    if given["network"] not in model.networks:
        raise UserError(f"--model={given['model']} goes with --network={' or '.join(model.networks)}")
    head = Flag("model", None, always({"method.name": model.method, **model.fixed}), model.note)
    return [head, *data.flags, *network, *SHARED, *model.flags]


def _known(kind: str, given: Mapping[str, str], table: Mapping[str, Known]) -> Known:
    """The row of a table whose name is given."""
    if kind not in given:
        raise UserError(f"fed-mammoth needs --{kind}; known are {', '.join(table)}")
    name = given[kind]
    if name in ABSENT:
        raise UserError(f"--{kind}={name} cannot be honoured: {ABSENT[name]}")
    if name not in table:
        raise UserError(f"--{kind}={name} is not known{_near(name, table)}; known are {', '.join(table)}")
    return table[name]


def _row(flag: Flag, texts: Mapping[str, Any], *, default: bool) -> Row:
    words = f"--{flag.name}={texts[flag.name]}{' (default)' if default else ''}"
    try:
        return Row(words, flag.rule(texts[flag.name], texts), flag.note)
    except ValueError as error:
        raise UserError(f"{words} cannot be honoured: {error}") from None


def _nested(parts: Iterable[Settings]) -> dict[str, dict[str, Any]]:
    nested: dict[str, dict[str, Any]] = {}
    for part in parts:
        for key, value in part.items():
            section, _, name = key.partition(".")
            nested.setdefault(section, {})[name] = value
    return nested


def _near(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
