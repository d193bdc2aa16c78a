"""What left the clients, on the page of a run: one line a kind of message, every part of it as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedbraid.privacy.guard import Reported, short
from fedbraid.reports.chart_frame import clean
from fedbraid.reports.html_numbers import size
from fedbraid.reports.html_tables import folded_table


def privacy_notes(results: Mapping[str, Any]) -> str:
    """The worst of each kind of message in a line, and what is spent; nothing where nothing is known."""
    lines = [short(entry) for entry in results.get("left") or ()]
    spent = results.get("privacy")
    if spent:
        lines.insert(0, spending(spent))
    items = "".join(f"<li>{clean(line)}</li>" for line in lines)
    return f'<section class="notes"><h2>What left the clients</h2><ul>{items}</ul></section>' if items else ""


def spending(spent: Mapping[str, Any]) -> str:
    """What is spent of the most private budget, in a sentence."""
    return (
        f"epsilon {spent['epsilon']:.4g} of {spent['budget']:g} spent at delta {spent['delta']:g}, the largest of all "
        f"clients ({spent['relation']}): {spent['mechanism']}"
    )


def privacy_table(results: Mapping[str, Any]) -> str:
    """Every part of every kind of message, folded away."""
    rows = [_row(entry, part) for entry in results.get("left") or () for part in entry["parts"]]
    head = ["message", "part", "what it discloses", "under the epsilon", "fewest samples", "numbers", "bytes"]
    return folded_table("What left the clients", head, rows, words=4)


def _row(entry: Reported, part: Mapping[str, Any]) -> list[str]:
    covered = "yes" if part["noised"] else "no"
    samples = f"{entry['samples']:,}"
    return [
        entry["phase"],
        part["kind"],
        part["discloses"],
        covered,
        samples,
        f"{part['numbers']:,}",
        size(part["bytes"]),
    ]
