"""A client's account: its secret and what it has spent, on its own disk, whatever becomes of the server.

    noise.key     the secret, made once
    ledger.json   for every class of samples the releases made, and a mark of each round that they were made in

A round is paid before anything of it is computed. Asked the same again, a client computes the same bits from the same
noise, which is no second release: the mark of the round is known. Anything else, other shared tensors, other samples or
other settings, has another mark and another noise, and is paid anew.

An account is that of a data set, over all runs, names and configurations. Samples of different classes are different
samples, whatever the tasks of a run are made of, so each class has a ledger; a release of all samples at once, as where
numbers are learned, counts for every class. The largest epsilon is the client's.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.checkpoint import write_durably
from fedbraid.core import ClientId, Round, Task
from fedbraid.errors import RunError
from fedbraid.privacy.accountant import admit, epsilon
from fedbraid.privacy.ledger import Budget, Ledger, Release
from fedbraid.privacy.noise import SECRET_BYTES, digest_of, fresh_secret

SECRET, LEDGER = "noise.key", "ledger.json"
EVERYTHING = "*"
"""Stands for the samples of all classes."""


@dataclass(frozen=True)
class Spent:
    """What was released of some samples, and in which rounds."""

    ledger: Ledger
    marks: tuple[str, ...] = ()


def one_by_one(task: Task) -> Sequence[str]:
    """The classes of a task by their numbers, where nothing names them."""
    return [str(number) for number in task.classes]


class Account:
    """`terms` is a text of every setting that a message follows from; the noise is another where it is.

    `samples_of` names the classes of a task as the data name them.
    """

    def __init__(
        self, folder: Path, budget: Budget, terms: str, samples_of: Callable[[Task], Sequence[str]] = one_by_one
    ) -> None:
        self._folder = folder
        self._budget = budget
        self._terms = hashlib.sha256(terms.encode()).digest()
        self._samples_of = samples_of
        self._spent = _read(folder / LEDGER)

    def pay(
        self, round: Round, client: ClientId, received: Tensors, ids: Tensor, releases: Sequence[Release]
    ) -> tuple[bytes, float]:
        """(key of the round's noise, epsilon of the task's samples with the round in it), once the ledger is on disk.

        `ids` are the numbers of the samples that the releases are made of. `StoppedRun` where the budget would be
        exceeded: then nothing was spent.
        """
        key = hmac.digest(self._secret(), self._terms + digest_of({"ids": ids}), "sha256")
        mark = hmac.digest(
            key, round.derive("release", client).to_bytes(8, "big") + digest_of(received), "sha256"
        ).hex()
        names = self._samples_of(round.task)
        unpaid = [name for name in names if mark not in self._of(name).marks]
        if unpaid:
            for name in {*unpaid, *(self._spent if EVERYTHING in unpaid else ())}:
                self._admit(name, releases)
            self._spent = {**self._spent, **{name: self._with(name, releases, mark) for name in unpaid}}
            self._write()
        return key, max(epsilon(self._whole(name), self._budget.delta) for name in names)

    def _of(self, name: str) -> Spent:
        return self._spent.get(name, Spent(Ledger()))

    def _whole(self, name: str) -> Ledger:
        """All releases that a sample of this class was in."""
        ledger = self._of(name).ledger
        for release in self._of(EVERYTHING).ledger.releases if name != EVERYTHING else ():
            ledger = ledger + release
        return ledger

    def _admit(self, name: str, releases: Sequence[Release]) -> None:
        """`StoppedRun` where the releases would exceed the budget of these samples."""
        ledger = self._whole(name)
        for release in releases:
            ledger = admit(ledger, release, self._budget)

    def _with(self, name: str, releases: Sequence[Release], mark: str) -> Spent:
        spent = self._of(name)
        return Spent(reduce(Ledger.__add__, releases, spent.ledger), (*spent.marks, mark))

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
        samples = {
            name: {**spent.ledger.data(), "marks": list(spent.marks)} for name, spent in sorted(self._spent.items())
        }
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # a secret lies in it
        text = json.dumps({"samples": samples, "sha256": _seal(samples)})
        write_durably(self._folder / LEDGER, f"{text}\n".encode())


def _read(path: Path) -> dict[str, Spent]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
        if content["sha256"] != _seal(content["samples"]):
            raise ValueError("it does not have the recorded SHA-256")
        return {
            name: Spent(Ledger.from_data(values), tuple(values["marks"])) for name, values in content["samples"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} is damaged ({type(error).__name__}: {error}), so what was spent is unknown; restore it, or start "
            "a run on other samples"
        ) from error


def _seal(samples: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(samples, sort_keys=True).encode()).hexdigest()


def _write_secret(path: Path) -> None:
    """Readable by its owner alone; whole or not there after a crash."""
    draft = path.with_name(f".{path.name}.part")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(fresh_secret())
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
