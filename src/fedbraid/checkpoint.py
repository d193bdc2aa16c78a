"""State on disk: generations of safetensors with a manifest, replaced atomically, verified before use.

A generation is two files, `<number>.safetensors` (the state) and `<number>.json` (the manifest: SHA-256 of the state
file and of the event log that belongs to it, how many rounds are done, what else a resumed run must know, and a SHA-256
of the manifest itself). Both are written to a temporary file, fsynced and renamed, then the directory is fsynced; the
manifest comes last, so a generation exists from the moment it does. The newest two are kept; a damaged one is passed
over for the one before it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedbraid.algebra import Tensors, prefix, raw, select
from fedbraid.core import State
from fedbraid.errors import RunError, StoppedRun

GENERATIONS = 2
DRAFT = ".part"
"""The ending of a file that is still being written; what a crash leaves of it means nothing."""


@dataclass(frozen=True)
class Checkpoint:
    """A run after `done` rounds: the runtime's memory, and how much of the event log belongs to it.

    `kept` is what simulated clients keep for themselves, as `<client>/<name>`.
    """

    done: int
    state: State
    memory: Mapping[str, Any] = field(default_factory=dict[str, Any])
    events_bytes: int = 0
    events_sha256: str = ""
    kept: Tensors = field(default_factory=dict[str, Tensor])


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Adds a generation and removes the oldest; `StoppedRun` where the disk is full, the last state intact."""
    tensors = prefix(checkpoint.state.shared, "shared") | prefix(checkpoint.state.server, "server")
    tensors |= prefix(checkpoint.kept, "kept")
    payload = save({key: value.contiguous().clone() for key, value in tensors.items()})
    manifest = {
        "done": checkpoint.done,
        "state_sha256": hashlib.sha256(payload).hexdigest(),
        "events_bytes": checkpoint.events_bytes,
        "events_sha256": checkpoint.events_sha256,
        "memory": checkpoint.memory,
    }
    name = f"{checkpoint.done:06d}"
    write_durably(folder / f"{name}.safetensors", payload)
    write_durably(folder / f"{name}.json", _sealed(manifest))
    for old in sorted(folder.glob("*.json"))[:-GENERATIONS]:
        remove(old)
    kept = {path.stem for path in folder.glob("*.json")}
    for path in folder.glob("*.safetensors"):
        if path.stem not in kept:
            remove(path)


def read(folder: Path, log: Path | None = None) -> Checkpoint | None:
    """The newest generation that is whole, with its part of the event log where that is given; None where there is none
    yet.

    Raises `RunError` where generations exist and all are damaged, naming what is wrong with each.
    """
    faults: list[str] = []
    for path in sorted(folder.glob("*.json"), reverse=True):
        try:
            return _read_generation(path, log)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            faults.append(f"{path.name}: {error}")
    if faults:
        raise RunError(
            f"no state in {folder} is whole ({'; '.join(faults)}); restore the files that are named, or start the run "
            "anew in another folder"
        )
    return None


def _read_generation(path: Path, log: Path | None) -> Checkpoint:
    manifest = _opened(path.read_bytes())
    if log and not _is_whole(log, manifest["events_bytes"], manifest.get("events_sha256")):
        raise ValueError(f"{log.name} does not begin with the {manifest['events_bytes']} bytes that belong to it")
    payload = path.with_suffix(".safetensors").read_bytes()
    if hashlib.sha256(payload).hexdigest() != manifest["state_sha256"]:
        raise ValueError("the state file does not have the recorded SHA-256")
    found = load(payload)  # in an order that differs from call to call
    tensors = {key: found[key] for key in sorted(found)}
    return Checkpoint(
        done=manifest["done"],
        state=State(select(tensors, "shared"), select(tensors, "server")),
        memory=manifest["memory"],
        events_bytes=manifest["events_bytes"],
        events_sha256=manifest.get("events_sha256", ""),
        kept=select(tensors, "kept"),
    )


def _is_whole(log: Path, length: int, digest: str | None) -> bool:
    """Whether the log begins with what was in it; the first versions of a manifest did not record its digest."""
    begun = log.read_bytes()[:length] if length else b""
    return len(begun) == length and (not digest or hashlib.sha256(begun).hexdigest() == digest)


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as JSON on one line, and its own SHA-256 on the next."""
    body = json.dumps(manifest, sort_keys=True)
    return f"{body}\n{hashlib.sha256(body.encode()).hexdigest()}\n".encode()


def _opened(sealed: bytes) -> dict[str, Any]:
    manifest = json.loads(sealed.partition(b"\n")[0])
    if _sealed(manifest) != sealed:
        raise ValueError("the manifest does not have the recorded SHA-256")
    return manifest


def write_durably(path: Path, content: bytes, *, synced: bool = True, private: bool = False) -> None:
    """Replaces `path` by a file with this content, making its folder: it holds the old content or the new, no part.

    That is so after a crash of the process, and where it is `synced` also after one of the machine. What is `private`
    nobody but its owner can read. `StoppedRun` where it cannot be written.
    """
    draft = path.with_name(f".{path.name}{DRAFT}")
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            _sync_folder(path.parent.parent)
        with open(draft, "wb", opener=_private if private else None) as file:
            file.write(content)
            file.flush()
            if synced:
                os.fsync(file.fileno())
        os.replace(draft, path)
        if synced:
            _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # on a disk that can only be read there is none
            draft.unlink(missing_ok=True)
        raise disk_error(error, path, len(content)) from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def remove(path: Path) -> None:
    """Removes a file that is not needed any more; `StoppedRun` where it cannot be."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(error, path, 0) from error


_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}


def disk_error(error: OSError, path: Path, size: int) -> StoppedRun:
    """The error of a write that failed, with what is needed to go on."""
    what = _FULL.get(error.errno or 0, f"cannot write ({error.strerror})")
    return StoppedRun(f"{what}: {path} needs {size} bytes; the state before it is intact")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def state_sha256(state: State) -> str:
    """A hash of the state's names, shapes, types and values, whatever file holds it."""
    digest = hashlib.sha256()
    for part, tensors in (("shared", state.shared), ("server", state.server)):
        for key in sorted(tensors):
            value = tensors[key]
            digest.update(f"{part}/{key} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(raw(value))
    return digest.hexdigest()
