"""The health signs of a run, at the top of its page: what was seen, where, above what, and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedbraid.reports.chart_frame import clean
from fedbraid.reports.health import TITLES, amount, by_kind, place
from fedbraid.reports.html_numbers import counted

LISTED = 3
"""So many more signs of a kind are told by their place."""


def health_section(results: Mapping[str, Any]) -> str:
    """A card for each kind of sign, or one line that says what was looked at; nothing for results without health."""
    health = results.get("health")
    if not health:
        return ""
    groups = by_kind(health["signs"])
    if not groups:
        return _nothing(health)
    cards = "".join(map(_card, groups))
    return f'<section class="health" aria-label="Health signs"><ul>{cards}</ul></section>'


def _card(group: Sequence[Mapping[str, Any]]) -> str:
    worst, others = group[0], group[1:]
    kind = worst["kind"]
    also = f'<p class="also">Also {clean(_also(kind, others))}.</p>' if others else ""
    return (
        f'<li class="{clean(kind)}"><h2>{clean(TITLES[kind])} <span>{clean(amount(kind, worst["value"]))}</span></h2>'
        f'<p class="where">{clean(place(worst))} · sign above {clean(amount(kind, worst["threshold"]))} '
        f"(<code>health.{clean(kind)}</code>)</p><p>{clean(worst['seen'])}</p>{also}"
        f'<p class="advice"><b>What to do.</b> {clean(worst["advice"])}</p></li>'
    )


def _also(kind: str, others: Sequence[Mapping[str, Any]]) -> str:
    """Where else a sign of the kind was seen."""
    told = [f"{place(sign)} ({amount(kind, sign['value'])})" for sign in others[:LISTED]]
    if len(others) > LISTED:
        told.append(f"in {counted(len(others) - LISTED, 'other task')}")
    return "; ".join(told)


def _nothing(health: Mapping[str, Any]) -> str:
    """One line where no threshold was passed; nothing where there was nothing to judge."""
    told = [
        f"{TITLES[kind].lower()} at most {amount(kind, max(value, 0.0))} (sign above {amount(kind, threshold)})"
        for kind, value in health["largest"].items()
        if (threshold := health["thresholds"][kind]) is not None and kind in TITLES
    ]
    if not told:
        return ""
    return f'<p class="healthy"><b>No health signs:</b> {clean("; ".join(told))}.</p>'
