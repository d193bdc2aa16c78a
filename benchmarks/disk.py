"""The points at which a process touches the disk, named and counted by functions that are wrapped from outside.

Nothing in the package knows of it: `open`, what is written to a file, and the functions of `os` that sync, rename,
truncate and remove are replaced while a `Tap` is installed. A point is named by what is done to which kind of file, as
`fsync state/N.json, draft`; the same name comes as often as such a file is touched. At every point the tap asks what is
to happen: nothing, or an exception, or the end of the process.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

When = Literal["before", "half", "after"]


@dataclass(frozen=True)
class Point:
    """One moment: `number` counts all touches, `turn` those of this name, both from 0."""

    name: str
    number: int
    turn: int
    when: When
    path: str

    @property
    def writes(self) -> bool:
        """Whether a full disk could refuse it: what is removed or cut needs no space."""
        return not self.name.startswith(("unlink", "rmdir", "truncate"))


class Tap:
    """Asks `act` at every point that touches something in `root`."""

    def __init__(self, root: Path, act: Callable[[Point], None]) -> None:
        self._root = os.path.realpath(root)
        self._act = act
        self._number = 0
        self._turns = Counter[str]()

    def install(self) -> None:
        """For the rest of the process."""
        opened = io.open

        def tapped(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            path = self._inside(file)
            if path is None or not set(mode) & set("wax+"):
                return opened(file, mode, *args, **options)
            return _File(self._touch("open", path, lambda: opened(file, mode, *args, **options)), self, path)

        io.open = builtins.open = tapped
        for name in ("replace", "rename"):
            self._wrap(name, of=lambda _source, target, **_: target)
        for name in ("unlink", "remove", "truncate", "mkdir", "rmdir"):
            self._wrap(name, of=lambda path, *_, dir_fd=None, **__: _beside(path, dir_fd))
        self._wrap("fsync", of=lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}"))

    def write(self, file: Any, path: str, content: Any) -> int:
        """In two halves, so that the first can be all that is written."""
        point, half = self._begin("write", path), len(content) // 2
        written = file.write(content[:half])
        file.flush()
        self._tell(point, "half", path)
        written += file.write(content[half:])
        self._tell(point, "after", path)
        return written

    def _wrap(self, name: str, *, of: Callable[..., Any]) -> None:
        inner = getattr(os, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            path = self._inside(of(*args, **options))
            if path is None:
                return inner(*args, **options)
            return self._touch("unlink" if name == "remove" else name, path, lambda: inner(*args, **options))

        setattr(os, name, wrapped)

    def _touch(self, what: str, path: str, work: Callable[[], Any]) -> Any:
        point = self._begin(what, path)
        found = work()
        self._tell(point, "after", path)
        return found

    def _begin(self, what: str, path: str) -> Point:
        name = f"{what} {kind_of(os.path.relpath(path, self._root))}"
        point = Point(name, self._number, self._turns[name], "before", path)
        self._number += 1
        self._turns[name] += 1
        self._act(point)
        return point

    def _tell(self, point: Point, when: When, path: str) -> None:
        self._act(Point(point.name, point.number, point.turn, when, path))

    def _inside(self, path: Any) -> str | None:
        """The real path where it lies in the root."""
        if not isinstance(path, str | os.PathLike):
            return None
        folder, name = os.path.split(os.path.abspath(os.fspath(path)))
        real = os.path.join(os.path.realpath(folder), name)
        return real if real == self._root or real.startswith(self._root + os.sep) else None


class _File:
    """A file whose writes are points."""

    def __init__(self, file: Any, tap: Tap, path: str) -> None:
        self._file, self._tap, self._path = file, tap, path

    def write(self, content: Any) -> int:
        return self._tap.write(self._file, self._path, content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()


def refusal(number: int, path: str) -> OSError:
    """The error of an operation that the disk refuses."""
    return OSError(number, os.strerror(number), path)


REFUSALS = {"ENOSPC": errno.ENOSPC, "EDQUOT": errno.EDQUOT, "EROFS": errno.EROFS}


def _beside(path: Any, folder: int | None) -> Any:
    return path if folder is None else os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)


def kind_of(path: str) -> str:
    """A path without what differs from round to round and from client to client."""
    path = re.sub(r"^(clients|holdings)/[^/]+", r"\1/C", path)
    *folders, name = path.split(os.sep)
    draft = name.endswith(".part")
    name = name.removeprefix(".").removesuffix(".part") if draft else name
    name = re.sub(r"^\d{6}(?=[.-])", "N", name)
    name = re.sub(r"^.*\.[0-9a-f]{16}\.answer$", "answer", name)
    name = re.sub(r"-[0-9a-f]{16}\.kept$", ".kept", name)
    return "/".join([*folders, name]) + (", draft" if draft else "")
