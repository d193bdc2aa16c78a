"""Methods by name: one file each."""

from collections.abc import Mapping

from fedbraid.methods.base import About, Options, Setting
from fedbraid.methods.fedavg import FedAvg
from fedbraid.methods.fedit import FedIT
from fedbraid.methods.joint import Joint
from fedbraid.methods.lorm import LoRM

METHODS: Mapping[str, type[Options]] = {"joint": Joint, "fedavg": FedAvg, "fedit": FedIT, "lorm": LoRM}

__all__ = ["METHODS", "About", "Options", "Setting"]
