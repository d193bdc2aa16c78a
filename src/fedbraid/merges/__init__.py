"""Merges: pure linear algebra that turns clients' statistics into merged values."""

from fedbraid.merges.base import Merge
from fedbraid.merges.fedex import FedEx
from fedbraid.merges.fisher import Fisher
from fedbraid.merges.mean import Mean
from fedbraid.merges.products import Cut, Stack
from fedbraid.merges.regmean import RegMean
from fedbraid.merges.ties import Ties

__all__ = ["Cut", "FedEx", "Fisher", "Mean", "Merge", "RegMean", "Stack", "Ties"]
