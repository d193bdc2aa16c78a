"""A method of one's own: FedAvg whose clients count by a power of their sample count.

    w* = sum_i n_i^p w_i / sum_i n_i^p        p = 1 is FedAvg, p = 0 counts every client alike

fedbraid run --method examples/my_method.py:PowerMean
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from fedbraid.api import (
    About,
    Merge,
    Method,
    Options,
    Setting,
    Statistic,
    Tensors,
    averaging,
    carried,
    require,
    select,
    values,
)
from fedbraid.api import quantities as q


@dataclass(frozen=True)
class Power(Merge):
    """The merge: lift one update into a statistic, solve the sum of all."""

    power: float

    def gives(self) -> q.Gives:
        return {"weight": q.SUM, "sum": q.WEIGHTED}

    def lift(self, update: Tensors) -> Statistic:
        weight = update["count"].double() ** self.power
        sums = {f"sum/{key}": weight * update[key].double() for key in values(update)}
        return Statistic({"weight": weight, **sums})

    def solve(self, total: Statistic) -> Tensors:
        return {key: value / total["weight"] for key, value in select(total, "sum").items()}


@dataclass(frozen=True)
class PowerMean(Options):
    """The method: its fields are its options, `build` puts the phases together."""

    power: float = 0.5

    about: ClassVar[About] = About(
        name="power_mean",
        title="Power mean",
        family="averaging",
        citation="an example",
        travels="tuned values, sample count",
        adapters=("lora", "full", "none"),
    )

    def build(self, setting: Setting) -> Method:
        require(self.power >= 0, "power", self.power, "must not be negative")
        train = replace(averaging(setting), merge=Power(self.power))
        return carried(self.about.name, setting, {"train": train})
