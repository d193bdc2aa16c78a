"""What stands between a client and what it sends: it pays for noise, writes down what leaves, stops what may not.

Before a message leaves its client, the report on it is in a file where the client is. A kind of message is a phase and
the kinds of tensors in it; of each the file holds the worst that has left: the Gram on the fewest of the samples that
it needs, or else the fewest samples. So one file speaks for one site, or for all clients that one process simulates.

Where work is private, a round is paid from the client's account before it is computed, and a message about training
samples leaves only where every part of it is covered.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fedbraid.algebra import Tensors
from fedbraid.checkpoint import write_durably
from fedbraid.core import EVALUATE, ClientId, Data, Round
from fedbraid.errors import RunError, StoppedRun, UserError
from fedbraid.privacy.account import Account
from fedbraid.privacy.ledger import RELATION, Budget, Release
from fedbraid.privacy.protection import KEY, Protection, as_tensor
from fedbraid.privacy.report import LEAST_DIAGONAL, Leaving, check_gram_samples, what_leaves
from fedbraid.quantities import CLASS_GRAM, Gives
from fedbraid.wire import Entry, entries, undeclared

FILE = "privacy.json"
"""The report, in a run's folder or a site's own."""
WORD = 'privacy.small_grams = "allow"'
FEW, SPENT, UNDECLARED, UNCOVERED = "too few samples", "budget spent", "not declared", "not private"
"""Why a message stays, as a code that may leave in its place."""

Reported = Mapping[str, Any]
Tell = Callable[..., None]


def tell_nobody(_what: str, **_facts: Any) -> None:
    """For guards that nobody listens to."""


@dataclass(frozen=True)
class Payment:
    """How private work is paid for: out of which account, and what a round costs."""

    budget: Budget
    protection: Protection
    account: Callable[[ClientId], Account]
    releases: Callable[[Round], Sequence[Release]]


class Guard:
    """Looks at every message before it is encoded; one guard serves one site, or all clients of one process.

    The report is kept in `folder`, and told when it changes. A message on fewer samples than `least` stays; `refuse`
    says whether Grams on too few samples do, `masked` that the server sees sums alone. Without a `payment` nothing is
    private.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        refuse: bool = False,
        least: int = 1,
        masked: bool = False,
        payment: Payment | None = None,
        tell: Tell = tell_nobody,
    ) -> None:
        self._path = folder / FILE if folder else None
        self._refuse = refuse
        self._least = least
        self._masked = masked
        self._payment = payment
        self._tell = tell
        self._entries = {_kind(entry): entry for entry in (read(self._path) if self._path else ())}
        self._spent = spent(self._path) if self._path else None
        self._epsilon: dict[ClientId, float] = {}

    def private(self, round: Round) -> bool:
        """Whether what a client sends in the round must not tell of single samples, nor that there are none."""
        return self._payment is not None and round.phase != EVALUATE

    def admit(self, data: Data, received: Tensors, round: Round) -> Data:
        """The samples with the key of their noise, once the round is paid; as they are where nothing is private.

        `RunError` where the client's budget does not suffice.
        """
        paying = self._payment
        if paying is None or not self.private(round):
            return data
        client = data.client
        try:
            releases = paying.releases(round)
            key, found = paying.account(client).pay(round, client, received, data.ids, releases)
        except StoppedRun as error:
            raise RunError(f"client {client} sits out: {error}", code=SPENT) from error
        self._epsilon[client] = found
        self._spend({"epsilon": found, "client": client, "task": round.task.index, **_terms(paying)})
        return data.remembering({**data.memory, KEY: as_tensor(key)})

    def check(
        self, sent: Tensors, gives: Gives, round: Round, client: ClientId, samples: int, rarest: int | None = None
    ) -> None:
        """Writes down what this message discloses; `RunError` where it may not leave, or cannot be written down.

        `gives` says what its tensors are; what it says nothing of stays. `rarest` are the samples of the rarest class,
        on which sums by class rest: of a class with one sample they are that sample's.
        """
        found = entries(sent, gives)
        if len(found) < len(sent):
            raise RunError(
                f"client {client}: nothing is declared of {', '.join(undeclared(sent, gives))}, so that what it "
                "discloses is not known; nothing was sent",
                code=UNDECLARED,
            )
        if self._payment is not None and self.private(round):
            leaving = self._covered(found, client, samples, self._payment)
        else:
            what, behind = _smallest(found, samples, samples if rarest is None else rarest)
            if behind < self._least:
                raise RunError(
                    f"client {client}: {what} of {behind} samples stays: privacy.least_samples (at a site "
                    f"least_samples in its site.toml) is {self._least}",
                    code=FEW,
                    needed=self._least,
                )
            leaving = what_leaves(found, samples=samples, masked=self._masked)
            if self._refuse:
                _check_grams(leaving, client)
        self._note([_entry(leaving, round, client)])

    @property
    def refuses(self) -> bool:
        """Whether it keeps anything back for resting on too few samples."""
        return (self._refuse and not self._masked) or self._least > 1

    def short_of(self, found: Sequence[Entry], round: Round, samples: int, rarest: int) -> Iterator[tuple[str, int]]:
        """(what, samples that it needs) of a message like this that would stay if it rested on so many samples.

        `rarest` are those of the rarest class, on which Grams by class rest.
        """
        if self.private(round):
            return
        what, behind = _smallest(found, samples, rarest)
        if behind < self._least:
            yield what, self._least
        for gram in what_leaves(found, samples=samples).grams if self._refuse and not self._masked else ():
            if (rarest if gram.kind == CLASS_GRAM.label else samples) < gram.needed:
                yield f"a {gram.kind}", gram.needed

    def absorb(self, folder: Path) -> None:
        """Takes over the reports of the sites whose folders lie in this one."""
        paths = sorted(folder.glob(f"*/{FILE}"))
        self._note([entry for path in paths for entry in read(path)])
        for found in map(spent, paths):
            self._spend(found)

    def _covered(self, found: Sequence[Entry], client: ClientId, samples: int, paying: Payment) -> Leaving:
        """The report on a private message; `RunError` where a part of it is not covered."""
        strange = sorted({entry.label for entry in found if entry.quantity.released == "nothing"})
        if strange:
            raise RunError(
                f"client {client}: no private release is known for {', '.join(strange)}; nothing was sent",
                code=UNCOVERED,
            )
        return what_leaves(
            found, samples=samples, masked=self._masked, epsilon=self._epsilon[client], delta=paying.budget.delta
        )

    def _spend(self, found: Reported | None) -> None:
        """Writes down and tells what is spent, where it is the most so far."""
        if found is None or (self._spent and found["epsilon"] <= self._spent["epsilon"]):
            return
        self._spent = found
        self._write()
        self._tell("privacy", **{key: found[key] for key in ("client", "epsilon", "delta")})

    def _note(self, reported: Sequence[Reported]) -> None:
        changed: dict[tuple[str, ...], Reported] = {}
        for entry in reported:
            known = {**self._entries, **changed}.get(_kind(entry))
            if known is None or _few(entry) < _few(known):
                changed[_kind(entry)] = entry
        if not changed:
            return
        new = changed.keys() - self._entries.keys()
        self._entries |= changed
        self._write()
        for kind, entry in changed.items():
            self._tell("privacy", phase=kind[0], client=entry["client"], first=kind in new, said=short(entry))

    def _write(self) -> None:
        if self._path:
            said = {"spent": self._spent, "messages": [*self._entries.values()]}
            content = {"format": 1, **said, "sha256": _digest(said)}
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self._path, (json.dumps(content, indent=1) + "\n").encode())


@runtime_checkable
class Classed(Protocol):
    """Samples of which each has a class."""

    def counts(self) -> Mapping[int, int]: ...


def rarest(data: Data) -> int:
    """How many samples there are of the rarest class that is held; of all, where there are no classes."""
    return min(data.counts().values(), default=0) if isinstance(data, Classed) else len(data)


def _smallest(found: Sequence[Entry], samples: int, rarest: int) -> tuple[str, int]:
    """The part of a message that rests on the fewest samples, in words, and these."""
    by_class = any(entry.quantity.role == "moment" for entry in found)
    return ("a sum by class", rarest) if by_class else ("a message", samples)


def read(path: Path) -> list[Reported]:
    """What a file says has left; nothing where there is none, `RunError` where it is damaged."""
    return list(_content(path)["messages"])


def spent(path: Path) -> Reported | None:
    """The most that a file says is spent, and by what; None where nothing is private."""
    return _content(path)["spent"]


def _content(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {"messages": [], "spent": None}
    try:
        content = json.loads(path.read_bytes())
        said = {"spent": content["spent"], "messages": content["messages"]}
        if content["sha256"] == _digest(said):
            return said
        why = "it does not have the recorded SHA-256"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
    raise RunError(f"{path} is damaged ({why}); it says what has left: keep it elsewhere, remove it, and go on")


def _digest(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def short(entry: Reported) -> str:
    """A kind of message in one line."""
    samples = f"{entry['samples']:,} sample{'s' if entry['samples'] != 1 else ''}"
    told = f"{entry['phase']}: {', '.join(_kinds(entry))}, of {samples} of client {entry['client']}"
    narrow = min(entry["grams"], key=_share, default=None)
    if narrow:
        told += f"; {narrow['per_dimension']:.3g} samples a dimension of a {narrow['kind']} of width {narrow['width']}"
        if narrow["kind"] != "diagonal gram" and _share(narrow) < 1:
            told += ", which discloses the span of these samples"
    if entry["masked"]:
        told += "; the server sees sums over clients alone"
    return f"{told}; {_privacy(entry)}"


def _privacy(entry: Reported) -> str:
    if entry["private"]:
        return f"epsilon {entry['epsilon']:.4g} at delta {entry['delta']:g}"
    return "no noise, so not private" if entry["epsilon"] is None else "not private: noise on a part alone"


def _terms(paying: Payment) -> Reported:
    """Of what the spent epsilon is a part, and what it is one of."""
    budget = paying.budget
    words = {"relation": RELATION, "mechanism": paying.protection.words()}
    return {"budget": budget.epsilon, "delta": budget.delta, **words}


def _entry(leaving: Leaving, round: Round, client: ClientId) -> Reported:
    return {"phase": round.phase, "client": client, "task": round.task.index, "round": round.index, **leaving.data()}


def _kind(entry: Reported) -> tuple[str, ...]:
    return (entry["phase"], *_kinds(entry))


def _kinds(entry: Reported) -> list[str]:
    return [part["kind"] for part in entry["parts"]]


def _few(entry: Reported) -> tuple[float, int]:
    """How few samples are behind a message: for its Grams, and in all."""
    return min(map(_share, entry["grams"]), default=float("inf")), entry["samples"]


def _share(gram: Mapping[str, Any]) -> float:
    """The samples of a Gram as a share of those that it needs to leave in the clear."""
    return gram["samples"] / (LEAST_DIAGONAL if gram["kind"] == "diagonal gram" else gram["width"])


def _check_grams(leaving: Leaving, client: ClientId) -> None:
    for gram in leaving.grams:
        form = "diagonal" if gram.kind == "diagonal gram" else "full"
        try:
            check_gram_samples(gram.samples, gram.width, gram.name, masked=leaving.masked, form=form, word=WORD)
        except UserError as error:
            raise RunError(f"client {client}: {error}", code=FEW, needed=gram.needed) from error
