"""TIES: average only the changes that are large and agree in sign.

Yadav et al., TIES-Merging: Resolving Interference When Merging Models, NeurIPS 2023; the rule is in `merges.ties`. The
changes are those of one round, from the model that all clients received.
Travels up: the change of the tuned values, the sample count.
Differs from public code: weights by sample counts; the head is averaged, since its rows are no interfering directions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fedbraid.core import Method
from fedbraid.merges import Ties as Merge
from fedbraid.methods.base import About, Options, Setting, require
from fedbraid.methods.fedavg import averaging, carried


@dataclass(frozen=True)
class Ties(Options):
    """The options of TIES."""

    keep: float = 0.2
    """The share of entries that survive trimming; 0.2 is the paper's default."""

    about: ClassVar[About] = About(
        name="ties",
        title="TIES",
        family="averaging",
        citation="Yadav et al., NeurIPS 2023",
        travels="change of the tuned values, sample count",
        adapters=("full", "lora"),
        numbers=True,
    )

    def build(self, setting: Setting) -> Method:
        """`UserError` for a share that is none."""
        require(0 < self.keep <= 1, "keep", self.keep, "must be above 0 and at most 1")
        train = replace(averaging(setting), merge=Merge(self.keep), relative=True)
        return carried(self.about.name, setting, {"train": train})
