"""Archives as authors publish them, unpacked once into a cache folder.

An archive comes from elsewhere, so nothing in it is taken on trust: it may hold regular files and folders, under names
that stay inside the folder, up to a size; no links and no devices. What was unpacked appears under its final name only
when it is complete, so an interrupted unpacking is never read.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from fedbraid.errors import UserError
from fedbraid.naming import shortened
from fedbraid.progress import track

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")

_GIB = 2**30
_CHUNK = 2**20
_BY_HAND = "if you trust it, unpack it yourself and give the folder: --set data.path=FOLDER"


@dataclass(frozen=True)
class Limits:
    """What an archive may hold at most; `ratio` is unpacked bytes for one of the archive, from one GiB on."""

    files: int = 3_000_000
    file_bytes: int = 16 * _GIB
    total_bytes: int = 400 * _GIB
    ratio: int = 100

    def room(self, packed: int) -> int:
        """How many bytes an archive of this size may unpack to."""
        return min(self.total_bytes, max(_GIB, self.ratio * packed))


LIMITS = Limits()


@dataclass(frozen=True)
class Entry:
    """One file of an archive, or one folder, which has no content."""

    name: str
    content: IO[bytes] | None


def is_archive(path: Path) -> bool:
    """Whether this is a file that `unpacked` takes, by its name."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/fedbraid`, or `~/.cache/fedbraid`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fedbraid"


def unpacked(archive: Path, limits: Limits = LIMITS) -> Path:
    """The folder with the archive's content, unpacked unless that was done before.

    The folder is known by the archive's name, size and time of change. `UserError` for an archive that is damaged,
    unsafe or too large.
    """
    target = cache_folder() / "archives" / _key(archive)
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=".unpacking-") as work:
            content = Path(work, "content")
            content.mkdir()
            _unpack(archive, content, limits)
            _publish(content, target)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged archive makes the parsers raise, or a full disk
        raise UserError(
            f"{archive} cannot be unpacked into {target.parent}: {error}. Get the archive anew, make room or set "
            "XDG_CACHE_HOME to another folder, or unpack it yourself and give the folder: --set data.path=FOLDER"
        ) from error
    return target


def _key(archive: Path) -> str:
    facts = archive.stat()
    digest = hashlib.sha256(repr((archive.name, facts.st_size, facts.st_mtime_ns)).encode())
    return f"{shortened(archive.name.partition('.')[0])}-{digest.hexdigest()[:16]}"


def _publish(content: Path, target: Path) -> None:
    try:
        content.rename(target)
    except OSError:
        # Another process was faster; what it unpacked is the same.
        if not target.is_dir():
            raise


def _unpack(archive: Path, root: Path, limits: Limits) -> None:
    room = limits.room(archive.stat().st_size)
    for number, entry in enumerate(track(_entries(archive), f"unpacking {archive.name}"), start=1):
        if number > limits.files:
            raise UserError(f"{archive} holds more than {limits.files:,} files; {_BY_HAND}")
        path = root.joinpath(*_parts(entry.name, archive))
        if entry.content is None:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with entry.content as source, path.open("xb") as file:
            size = _copied(source, file, min(room, limits.file_bytes))
        if size is None:
            raise UserError(f"{archive} unpacks to more than it may, at {entry.name!r}; {_BY_HAND}")
        room -= size


def _copied(source: IO[bytes], file: IO[bytes], room: int) -> int | None:
    """How many bytes were copied; None where there are more than `room`."""
    size = 0
    while chunk := source.read(_CHUNK):
        size += len(chunk)
        if size > room:
            return None
        file.write(chunk)
    return size


def _parts(name: str, archive: Path) -> list[str]:
    """The folders and the file that a name leads through, from the root."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    drive = any(re.match(r"[A-Za-z]:", part) for part in parts)
    if name.startswith("/") or ".." in parts or drive or re.search(r"[\\\x00-\x1f]", name):
        raise UserError(f"{archive} holds {name!r}, a name that can lead out of its folder; do not use this archive")
    return parts


def _entries(archive: Path) -> Iterator[Entry]:
    return _zip_entries(archive) if archive.name.lower().endswith(".zip") else _tar_entries(archive)


def _tar_entries(archive: Path) -> Iterator[Entry]:
    with tarfile.open(archive, "r:gz" if archive.name.lower().endswith("gz") else "r:") as content:
        for member in content:
            if not (member.isreg() or member.isdir()):
                raise _special(archive, member.name)
            yield Entry(member.name, content.extractfile(member))
        # tarfile takes a damaged header for the end; the true end is two blocks of zeros, of which it read the first.
        if content.fileobj is None or content.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("the archive ends before its end mark")


def _zip_entries(archive: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as content:
        for info in content.infolist():
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _special(archive, info.filename)
            yield Entry(info.filename, None if info.is_dir() else content.open(info))


def _special(archive: Path, name: str) -> UserError:
    return UserError(f"{archive} holds {name!r}, a link or a device instead of a file; {_BY_HAND}")
