"""Progress of long steps, shown by whoever drives the run.

`track` is an ordinary loop unless a display is active, so code that loops needs to know nothing of terminals. The
display is a context variable: two runs in two threads do not mix.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")


class Display(Protocol):
    """Shows loops by depth: the outermost running loop first."""

    def begin(self, what: str, total: int | None) -> int: ...
    def advance(self, loop: int) -> None: ...
    def end(self, loop: int) -> None: ...


_display: ContextVar[Display | None] = ContextVar("fedbraid_display", default=None)


@contextmanager
def shown_on(display: Display | None) -> Iterator[None]:
    """Loops inside this context appear on `display`, or nowhere."""
    token = _display.set(display)
    try:
        yield
    finally:
        _display.reset(token)


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The same items, counted on the active display; `total` is needed where `items` has no length."""
    display = _display.get()
    if display is None:
        yield from items
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    loop = display.begin(what, total)
    try:
        for item in items:
            yield item
            display.advance(loop)
    finally:
        display.end(loop)
