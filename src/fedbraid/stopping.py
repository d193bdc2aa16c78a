"""Being asked to stop: Ctrl-C, SIGTERM and a closed terminal end a command once, in order, however often they come.

The first is a `KeyboardInterrupt` where the command is at work, so it says its sentence and leaves. Those that follow
would cut that short, and are not heard for a while; after it they end the process at once, since a run folder can be
left at any moment.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STATUS = 130
"""The exit status of a command that was asked to stop."""
PATIENCE = 10.0
"""Seconds that a command has to leave before it can be ended in the middle."""
AGAIN = 0.02
"""Seconds after which it is looked anew whether an import is over: one is not cut in two."""


class Stop(KeyboardInterrupt):
    """A stop that was asked for. Python ends by SIGINT once a plain interrupt has gone through an `exec`, also where it
    was caught later."""


@contextmanager
def stoppable() -> Iterator[None]:
    """A command that is asked to stop inside this context does so once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = _Asked(os.getpid())
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup and & ignore some
    heard += [signal.SIGALRM]
    before = {number: signal.signal(number, asked) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            # Nothing disturbs a stopped process while Python shuts down.
            signal.signal(number, signal.SIG_IGN if asked.at is not None else handler)


def asked() -> bool:
    """Whether this process was asked to stop while it was `stoppable`."""
    handlers = map(signal.getsignal, SIGNALS)
    return any(isinstance(handler, _Asked) and handler.at is not None for handler in handlers)


@contextmanager
def stops() -> Iterator[None]:
    """What goes wrong inside because of a stop is a `Stop` again: some libraries make another error of it."""
    try:
        yield
    except Exception as error:
        if asked():
            raise Stop from error
        raise


class _Asked:
    """The handler of these signals; `at` is when the first came."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._raised = False
        self.at: float | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked child ends as it would have
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        now = time.monotonic()
        self.at = now if self.at is None else self.at
        if now - self.at > PATIENCE and number != signal.SIGALRM:
            os.write(2, b"fedbraid: ended at once, as asked again\n")
            os._exit(STATUS)
        if self._raised:
            return
        if _imports(frame):
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
            return
        self._raised = True
        raise Stop


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported: one that is cut in two raises anything later, or ends the process."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
