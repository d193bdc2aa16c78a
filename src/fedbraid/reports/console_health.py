"""The health of a run as lines of a terminal: what averaging loses, and the signs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedbraid.reports.health import TITLES, amount, by_kind, place
from fedbraid.reports.html_numbers import counted, percent
from fedbraid.reports.screen_words import words


def health_lines(results: Mapping[str, Any]) -> list[str]:
    """The deviation in one line, then the worst sign of each kind, in the markup of rich.

    >>> health_lines({"deviation_mean": 0.051, "deviation_max": 0.434})
    ['averaging the factors loses [bold]5.1%[/] of an update, at most 43.4%']
    """
    lines: list[str] = []
    if "deviation_mean" in results:
        kind = results.get("low_rank") or {}
        verb = "would lose" if kind.get("exact") or kind.get("own_merge") else "loses"
        mean, most = percent(results["deviation_mean"]), percent(results["deviation_max"])
        lines.append(f"averaging the factors {verb} [bold]{mean}[/] of an update, at most {most}")
    for worst, *others in by_kind((results.get("health") or {}).get("signs") or ()):
        more = f" (and {counted(len(others), 'more task')})" if others else ""
        shown = amount(worst["kind"], worst["value"])
        lines.append(f"[yellow]{TITLES[worst['kind']].lower()} {shown}[/] [dim]{words(place(worst))}{more}[/]")
        lines.append(f"  {words(worst['seen'])}")
        lines.append(f"  [dim]{words(worst['advice'])}[/]")
    return lines
