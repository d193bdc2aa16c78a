"""Merges: pure linear algebra that turns clients' statistics into merged values."""

from fedbraid.merges.base import Merge
from fedbraid.merges.mean import Mean
from fedbraid.merges.regmean import RegMean

__all__ = ["Mean", "Merge", "RegMean"]
