"""A client's account: its secret and what it has spent, on its own disk, whatever becomes of the server.

    noise.key     the secret, made once
    ledger.json   for every task the releases made, and a mark of each round that they were made in

A round is paid before anything of it is computed. Asked the same again, a client computes the same bits from the same
noise, which is no second release: the mark of the round is known. Anything else, other shared tensors, other samples or
other settings, has another mark and another noise, and is paid anew.

The samples of two tasks are different samples, so each task has a ledger, and the largest epsilon is the client's.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.checkpoint import write_durably
from fedbraid.core import ClientId, Round
from fedbraid.errors import RunError
from fedbraid.privacy.accountant import admit, epsilon
from fedbraid.privacy.ledger import Budget, Ledger, Release
from fedbraid.privacy.noise import SECRET_BYTES, digest_of, fresh_secret

SECRET, LEDGER = "noise.key", "ledger.json"


@dataclass(frozen=True)
class Spent:
    """What was released of one task's samples, and in which rounds."""

    ledger: Ledger
    marks: tuple[str, ...] = ()


class Account:
    """`terms` is a text of every setting that a message follows from; the noise is another where it is."""

    def __init__(self, folder: Path, budget: Budget, terms: str) -> None:
        self._folder = folder
        self._budget = budget
        self._terms = hashlib.sha256(terms.encode()).digest()
        self._tasks = _read(folder / LEDGER)

    def pay(
        self, round: Round, client: ClientId, received: Tensors, ids: Tensor, releases: Sequence[Release]
    ) -> tuple[bytes, float]:
        """(key of the round's noise, epsilon of the task with the round in it), once the ledger is on disk.

        `ids` are the numbers of the samples that the releases are made of. `StoppedRun` where the budget would be
        exceeded: then nothing was spent.
        """
        key = hmac.digest(self._secret(), self._terms + digest_of({"ids": ids}), "sha256")
        mark = hmac.digest(
            key, round.derive("release", client).to_bytes(8, "big") + digest_of(received), "sha256"
        ).hex()
        task = str(round.task.index)
        spent = self._tasks.get(task, Spent(Ledger()))
        if mark not in spent.marks:
            ledger = spent.ledger
            for release in releases:
                ledger = admit(ledger, release, self._budget)
            spent = Spent(ledger, (*spent.marks, mark))
            self._tasks = {**self._tasks, task: spent}
            self._write()
        return key, epsilon(spent.ledger, self._budget.delta)

    def _secret(self) -> bytes:
        path = self._folder / SECRET
        if not path.is_file():
            self._write()  # so a secret without a ledger is one whose ledger was lost
            _write_secret(path)
        elif not (self._folder / LEDGER).is_file():
            raise RunError(
                f"{path} is there and {LEDGER} is not, so what was spent is unknown; restore the ledger, or start a "
                "run on other samples"
            )
        secret = path.read_bytes()
        if len(secret) != SECRET_BYTES:
            raise RunError(f"{path} is damaged ({len(secret)} bytes); remove it: the rounds from here on are paid anew")
        return secret

    def _write(self) -> None:
        tasks = {
            task: {**spent.ledger.data(), "marks": list(spent.marks)} for task, spent in sorted(self._tasks.items())
        }
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # a secret lies in it
        write_durably(self._folder / LEDGER, (json.dumps({"tasks": tasks, "sha256": _seal(tasks)}) + "\n").encode())


def _read(path: Path) -> dict[str, Spent]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
        if content["sha256"] != _seal(content["tasks"]):
            raise ValueError("it does not have the recorded SHA-256")
        return {
            task: Spent(Ledger.from_data(values), tuple(values["marks"])) for task, values in content["tasks"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is damaged ({type(error).__name__}: {error}), so what was spent is unknown; restore it, or start "
            "a run on other samples"
        ) from error


def _seal(tasks: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tasks, sort_keys=True).encode()).hexdigest()


def _write_secret(path: Path) -> None:
    """Readable by its owner alone; whole or not there after a crash."""
    draft = path.with_name(f".{path.name}.part")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(fresh_secret())
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
