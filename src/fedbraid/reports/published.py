"""Numbers that others published, shown beside ours where the setting is the same.

`published.csv` holds one number a line: where it is from, and the setting in the words of a configuration. A part of
the setting that the source does not state is empty there, and equal to nothing: such a number is kept but never shown.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Setting:
    """What must agree for two numbers to be comparable; `parameter` is beta or alpha of the partition."""

    method: str
    dataset: str
    backbone: str
    tasks: int | None
    clients: int | None
    partition: str
    parameter: float | None

    def same(self, other: Setting) -> bool:
        """Whether every part is known on both sides and agrees; names agree whatever their dashes and case.

        >>> ours = Setting("coda-prompt", "cifar100", "timm:vit@file", 10, 10, "dirichlet", 0.5)
        >>> ours.same(Setting("coda_prompt", "CIFAR-100", "timm:vit", 10, 10, "dirichlet", 0.5))
        True
        """
        pairs = zip(self._parts(), other._parts(), strict=True)
        return all(ours is not None and ours == theirs for ours, theirs in pairs)

    def _parts(self) -> tuple[object, ...]:
        names = [_bare(self.method), _bare(self.dataset), self.backbone.partition("@")[0], self.partition]
        return (*(name or None for name in names), self.tasks, self.clients, self.parameter)


@dataclass(frozen=True)
class Published:
    """One number of another's, accuracies in percent."""

    source: str
    setting: Setting
    metric: str
    value: float


@cache
def published() -> tuple[Published, ...]:
    """All numbers of `published.csv`."""
    text = files("fedbraid").joinpath("published.csv").read_text("utf-8")
    return tuple(
        Published(
            row["source"],
            Setting(
                row["method"],
                row["dataset"],
                row["backbone"],
                int(row["tasks"]) if row["tasks"] else None,
                int(row["clients"]) if row["clients"] else None,
                row["partition"],
                float(row["parameter"]) if row["parameter"] else None,
            ),
            row["metric"],
            float(row["value"]),
        )
        for row in csv.DictReader(text.splitlines())
    )


def comparable(setting: Setting, numbers: Iterable[Published] | None = None) -> tuple[Published, ...]:
    """The published numbers of that setting, in the order of the file."""
    return tuple(number for number in (published() if numbers is None else numbers) if number.setting.same(setting))


def _bare(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
