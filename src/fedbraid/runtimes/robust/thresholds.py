"""Beyond what an update is taken for false: every limit of robust mode in one place.

All but `opposed` are multiples of the clients' median. An honest update keeps to them also where every client holds
other classes than the others and some hold a hundred times the samples of others; `docs/robust.md` says how that was
measured, and what each of them does not see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FEWEST = 5
"""Reporting clients below which nothing is selected: among four, two liars are as many as those they lie about."""


@dataclass(frozen=True)
class Thresholds:
    """The limits, and what happens where they would refuse too many."""

    weight: float = 30.0
    """The most that a count, or the trace of a Gram without one, may exceed the median: both are weights of a merge."""
    trace: float = 10.0
    """How far the trace of a Gram by sample may lie from the median, up or down."""
    spread: float = 10.0
    """How far below the median 1 - |G|^2 / trace(G)^2 may lie, which is zero for a Gram of rank one."""
    change: float = 4.0
    """How much larger than the median the change of a kind of tuned values may be, or a sum over samples."""
    tensor: float = 10.0
    """The same of one tensor among those of a kind."""
    still: float = 100.0
    """How much smaller than the median all changes of an update may be."""
    opposed: float | None = None
    """How strongly an update may point against the others, as a share of how strongly they agree. Unset: 0.6, and no
    limit in tasks of two classes or fewer, where clients of different classes do nothing else."""
    alike: bool = False
    """Whether clients are said to hold the same classes, so that all must point in about one direction."""
    deviations: float = 3.0
    """A limit is never nearer than so many standard deviations, estimated by the median absolute deviation."""
    most: float = 0.3
    """The largest share of a round's updates that is refused."""
    fallback: Literal["clip", "pause"] = "clip"
    """What happens to a round in which more would be: all updates are clipped and taken, or the run pauses."""
    clip: float = 1.5
    """By how much a clipped update's changes and weights may exceed the median."""

    def opposition(self, classes: int) -> float | None:
        """The limit of opposition in a task of so many classes; None for no limit."""
        if self.opposed is not None:
            return self.opposed
        return 0.6 if classes > 2 or self.alike else None
