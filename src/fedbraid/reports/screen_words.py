"""What people wrote, inside the markup of rich: a name is a name, whatever signs are in it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from fedbraid.naming import printable


def console(*, err: bool = False) -> Console:
    """A console on which a name like `:smile:` stays a name."""
    return Console(stderr=err, emoji=False)


def words(text: object) -> str:
    """The text as rich is to print it: nothing in it is markup, and nothing steers the terminal.

    >>> words("[red]a\\x1b[2J")
    '\\\\[red]a\\\\x1b[2J'
    """
    return escape(printable(text))
