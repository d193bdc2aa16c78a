"""How far a table is and how long it will take, from what its pool reports."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fedbraid.grids.cells import Plan
from fedbraid.grids.pool import Report, Running

Label = tuple[str, str]
"""The labels of a row: cells of one row take about equally long."""


@dataclass(frozen=True)
class Progress:
    """A table as it fills: `open` counts the cells of each row that are not over, `took` what others of it took."""

    total: int
    jobs: int
    open: Mapping[Label, int]
    failed: int = 0
    took: Mapping[Label, Sequence[float]] = field(default_factory=dict[Label, Sequence[float]])
    running: Sequence[Running] = ()

    @property
    def done(self) -> int:
        return self.total - sum(self.open.values())

    @property
    def left(self) -> float | None:
        """Seconds to the end, from finished cells, or from running ones before any is finished; None before that."""
        known = [seconds for row in self.took.values() for seconds in row]
        usual = statistics.fmean(known or whole) if known or (whole := self._whole()) else None
        if usual is None:
            return None
        waiting = dict(self.open)
        for job in self.running:
            waiting[job.cell.row] -= 1
        rest = [self._rest(job, usual) for job in self.running]
        more = [self._expected(row, usual) * count for row, count in waiting.items()]
        return max([sum(rest + more) / self.jobs, *rest])

    def after(self, report: Report) -> Progress:
        """The progress once the report is known."""
        still, took = dict(self.open), dict(self.took)
        for ended in report.ended:
            row = ended.cell.row
            still[row] -= 1
            if ended.error is None:
                took[row] = [*took.get(row, ()), ended.seconds]
        failed = self.failed + sum(ended.error is not None for ended in report.ended)
        return replace(self, open=still, took=took, failed=failed, running=report.running)

    def _expected(self, row: Label, usual: float) -> float:
        return statistics.fmean(self.took[row]) if self.took.get(row) else usual

    def _rest(self, job: Running, usual: float) -> float:
        """By what cells like it took, or by its own pace where that says less or where it is longer at work already."""
        pace, expected = _rest(job), self._expected(job.cell.row, usual) - job.seconds
        if pace is None:
            return max(0.0, expected)
        return min(pace, expected) if expected > 0 else pace

    def _whole(self) -> list[float]:
        """What the running cells will have taken, as far as their rounds tell."""
        return [job.seconds + rest for job in self.running if (rest := _rest(job)) is not None]


def begin(plan: Plan, jobs: int) -> Progress:
    """The progress of a plan of which nothing is known yet."""
    counts = {(row.data, row.method): len(row.points) + len(plan.grid.seeds) for row in plan.rows}
    return Progress(total=sum(counts.values()), jobs=jobs, open=counts)


def _rest(job: Running) -> float | None:
    """Seconds that a running cell still needs by the pace of its own rounds; None before the first of them."""
    if job.total is None or job.rounds <= job.before:
        return None
    return job.seconds * (job.total - job.rounds) / (job.rounds - job.before)
