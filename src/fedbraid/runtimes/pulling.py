"""Replies fetched beside the server's own clock.

Flower announces a reply before its parts, and a call that fetches replies lasts until the last part of each has come:
as long as a slow site sends, and three minutes for one that broke off. Nobody can look at a deadline meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flwr.app import Message
    from flwr.serverapp import Grid


class Pulling:
    """Replies of a grid. One call goes on at a time, since a second would be told that what the first holds is lost."""

    def __init__(self, grid: Grid, moment: float) -> None:
        self._grid = grid
        self._moment = moment
        self._call: threading.Thread | None = None
        self._came: SimpleQueue[list[Message] | Exception] = SimpleQueue()

    def look(self, names: Sequence[str]) -> list[Message]:
        """The replies to these messages that came since the last look, waited for a moment; errors are the grid's."""
        if self._call is None or not self._call.is_alive():
            found = self._arrived()  # else the next call would ask for these again
            if found:
                return found
            self._call = threading.Thread(target=self._pull, args=(list(names),), name="pulling", daemon=True)
            self._call.start()
        self._call.join(self._moment)
        return self._arrived()

    def _arrived(self) -> list[Message]:
        found: list[Message] = []
        while True:
            try:
                came = self._came.get_nowait()
            except Empty:
                return found
            if isinstance(came, Exception):
                raise came
            found += came

    def _pull(self, names: list[str]) -> None:
        try:
            self._came.put(list(self._grid.pull_messages(names)))
        except Exception as error:  # it is raised where somebody looks
            self._came.put(error)
