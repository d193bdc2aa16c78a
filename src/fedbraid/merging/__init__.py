"""Merging adapters: PEFT folders and low-rank updates by closed-form rules, with a certificate of the result."""

from fedbraid.merging.certificate import Certificate, LayerFact
from fedbraid.merging.command import Request, Sources, merge_folders
from fedbraid.merging.merge import Merged, merge
from fedbraid.merging.rules import RULES, Options

__all__ = ["RULES", "Certificate", "LayerFact", "Merged", "Options", "Request", "Sources", "merge", "merge_folders"]
