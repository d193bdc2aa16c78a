"""Robust mode: which updates of a round are merged, where some may be well-formed and yet false (see `selection`)."""

from fedbraid.runtimes.robust.clipping import Clip, clipped
from fedbraid.runtimes.robust.selection import Cohort, Verdict
from fedbraid.runtimes.robust.thresholds import FEWEST, Thresholds

__all__ = ["FEWEST", "Clip", "Cohort", "Thresholds", "Verdict", "clipped"]
