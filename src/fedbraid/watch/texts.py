"""What comes from elsewhere made fit to show: names and reasons are other machines' words, times may be missing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from fedbraid.naming import printable
from fedbraid.reports.html_numbers import duration

NAME, REASON = 80, 400
"""The most characters that are shown of a name and of a reason."""


def plain(value: object, most: int = NAME) -> str:
    """The text in one line of visible characters, its white space single blanks, the rest as `printable` gives it.

    >>> plain("a\\x1b[2Jb\\u202ec"), plain("x" * 9, most=4), plain("two\\nlines")
    ('a\\\\x1b[2Jb\\\\u202ec', 'xxx…', 'two lines')
    """
    text = str(value)[: 4 * most]
    return printable(re.sub(r"\s+", " ", text).strip(), most)


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers inside names by their size.

    >>> sorted(["10", "2", "site b", "site a10", "site a9"], key=natural)
    ['2', '10', 'site a9', 'site a10', 'site b']
    """
    parts = re.split(r"(\d{1,18})", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def moment(entry: Mapping[str, Any]) -> datetime | None:
    """When an entry was written; None where it does not say so."""
    try:
        at = datetime.fromisoformat(entry["at"])
    except (KeyError, TypeError, ValueError):
        return None
    return at if at.tzinfo else at.replace(tzinfo=timezone.utc)


def seconds(earlier: datetime | None, later: datetime | None) -> float | None:
    """From one moment to another, never less than nothing: clocks may be set back."""
    return max((later - earlier).total_seconds(), 0.0) if earlier and later else None


def rough(value: float) -> str:
    """Seconds in whole steps, for a number that changes while one looks at it.

    >>> rough(4.7), rough(192.2)
    ('4 s', '3 min 12 s')
    """
    return f"{int(value)} s" if value < 100 else duration(value)


def whole(value: object) -> int:
    """A count that an entry tells; nothing where it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def texts(value: object) -> list[str]:
    """A list of names that an entry tells."""
    return [str(one) for one in value] if isinstance(value, list) else []


def facts(value: object) -> Mapping[str, Any]:
    """A table of facts that an entry tells."""
    return value if isinstance(value, Mapping) else {}
