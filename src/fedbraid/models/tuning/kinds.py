"""Which file puts which kind of adapter into a backbone."""

from __future__ import annotations

from torch import nn

from fedbraid.models.adapters import Adapter
from fedbraid.models.tuning.base import Tuning
from fedbraid.models.tuning.full import Full
from fedbraid.models.tuning.ia3 import IA3
from fedbraid.models.tuning.lora_xs import LoRAXS
from fedbraid.models.tuning.low_rank import LowRank
from fedbraid.models.tuning.nothing import Nothing
from fedbraid.models.tuning.vera import Vera

OVER_LAYERS = {"lora": LowRank, "vera": Vera, "lora_xs": LoRAXS, "ia3": IA3}
"""The kinds that tune chosen linear layers."""


def tune(module: nn.Module, adapter: Adapter) -> Tuning:
    """The adapter's own parameters, put into the module; prompts stand outside it (see `models.prompted`)."""
    if adapter.kind in OVER_LAYERS:
        return OVER_LAYERS[adapter.kind](module, adapter)
    return Full(module) if adapter.kind == "full" else Nothing()
