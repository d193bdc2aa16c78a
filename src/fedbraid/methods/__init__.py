"""Methods by name: one file each."""

from collections.abc import Mapping

from fedbraid.errors import UserError
from fedbraid.methods.afl import AFL
from fedbraid.methods.base import About, Options, Setting, make
from fedbraid.methods.ccvr import CCVR
from fedbraid.methods.coda_prompt import CODAPrompt
from fedbraid.methods.derpp import DERpp
from fedbraid.methods.dualprompt import DualPrompt
from fedbraid.methods.ewc import EWC
from fedbraid.methods.fed_sb import FedSB
from fedbraid.methods.fed_talora import FedTaLoRA
from fedbraid.methods.fedavg import FedAvg
from fedbraid.methods.fedex_lora import FedExLoRA
from fedbraid.methods.fedit import FedIT
from fedbraid.methods.fedproto import FedProto
from fedbraid.methods.fedprox import FedProx
from fedbraid.methods.ffa_lora import FFALoRA
from fedbraid.methods.fisheravg import FisherAvg
from fedbraid.methods.flexlora import FlexLoRA
from fedbraid.methods.flora import FLoRA
from fedbraid.methods.joint import Joint
from fedbraid.methods.l2p import L2P
from fedbraid.methods.lorm import LoRM
from fedbraid.methods.lwf import LwF
from fedbraid.methods.pilora import PILoRA
from fedbraid.methods.ranpac_fed import RanPACFed
from fedbraid.methods.regmean import RegMean
from fedbraid.methods.rolora import RoLoRA
from fedbraid.methods.stsa import STSA
from fedbraid.methods.target import TARGET
from fedbraid.methods.ties import Ties
from fedbraid.plugins import is_reference, load_object

METHODS: Mapping[str, type[Options]] = {
    "joint": Joint,
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedit": FedIT,
    "ffa_lora": FFALoRA,
    "rolora": RoLoRA,
    "flora": FLoRA,
    "flexlora": FlexLoRA,
    "fedex_lora": FedExLoRA,
    "fed_talora": FedTaLoRA,
    "fed_sb": FedSB,
    "ties": Ties,
    "fisheravg": FisherAvg,
    "regmean": RegMean,
    "lorm": LoRM,
    "ewc": EWC,
    "lwf": LwF,
    "fedproto": FedProto,
    "ccvr": CCVR,
    "derpp": DERpp,
    "pilora": PILoRA,
    "target": TARGET,
    "afl": AFL,
    "ranpac_fed": RanPACFed,
    "stsa": STSA,
    "l2p": L2P,
    "dualprompt": DualPrompt,
    "coda_prompt": CODAPrompt,
}


def find(name: str) -> type[Options] | None:
    """The options of a method of the package, or of one from outside, named `file.py:Class`; None for no such name."""
    if not is_reference(name):
        return METHODS.get(name)
    found = load_object(name)
    if not isinstance(found, type) or not isinstance(getattr(found, "about", None), About):
        raise UserError(f"{name} is no method: it must name a dataclass that derives from fedbraid.methods.Options")
    return found


__all__ = ["METHODS", "About", "Options", "Setting", "find", "make"]
