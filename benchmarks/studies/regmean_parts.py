"""RegMean on some parts of a model, the mean of the others: which part makes it better or worse than averaging.

fedbraid run --method benchmarks/studies/regmean_parts.py:RegMeanParts --set 'method.parts=["head"]'
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from fedbraid.algebra import Tensors
from fedbraid.core import Data, Method, Model, Round
from fedbraid.errors import UserError
from fedbraid.local.measures import FEATURES, GramOf, Passes, measure_grams
from fedbraid.merges import RegMean as Merge
from fedbraid.methods import About, Options, Setting
from fedbraid.methods.base import head_of, model_values
from fedbraid.methods.fedavg import averaging, carried

PARTS = ("head", "A", "B")


@dataclass(frozen=True)
class RegMeanParts(Options):
    """`parts` are those merged by their Grams."""

    parts: tuple[str, ...] = PARTS
    off_diagonal: float = 0.9
    ridge: float = 1e-6

    about: ClassVar[About] = About(
        name="regmean_parts",
        title="RegMean on parts",
        family="closed form",
        citation="a study",
        travels="tuned values, Grams of the chosen parts, sample count",
        adapters=("lora",),
        own_merge=True,
    )

    def build(self, setting: Setting) -> Method:
        strange = sorted(set(self.parts) - set(PARTS))
        if strange:
            raise UserError(f"method.parts: {strange[0]!r} is none of {', '.join(PARTS)}")

        def grams(model: Model, shared: Tensors, data: Data, round: Round) -> Tensors:
            wanted: list[GramOf] = []
            if "head" in self.parts:
                wanted.append(GramOf(head_of(round), FEATURES, off_diagonal=self.off_diagonal, ones="joined"))
            for layer in model.layers:
                first = shared[f"lora_A/{layer}"]
                if "A" in self.parts:
                    wanted.append(GramOf(f"lora_A/{layer}", layer, off_diagonal=self.off_diagonal))
                if "B" in self.parts:
                    factor = GramOf(f"lora_B/{layer}", layer, projection=first, off_diagonal=self.off_diagonal)
                    wanted.append(factor)
            return measure_grams(model, model_values(shared), data, round, wanted=wanted, passes=Passes(1))

        train = replace(averaging(setting), merge=Merge(self.ridge), measures=grams)
        return carried(self.about.name, setting, {"train": train})
