"""Updates that are well-formed and false: what some clients send instead of what they computed.

An attack is a function of what the attackers computed honestly, so that they may act together, and of what all were
sent. Whatever it leaves as it is was honest: an attack on Grams changes nothing of a round that has none.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.core import EVALUATE, ClientId, Round
from fedbraid.linalg import to_triangle
from fedbraid.quantities import Gives
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.exchange import UPDATE, Answer, Transport
from fedbraid.runtimes.gram_rules import side
from fedbraid.wire import Entry, entries

Updates = Mapping[ClientId, Tensors]
Change = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Known:
    """What attackers know: what all received, what the tensors of an update are, and a source of chance."""

    received: Tensors
    gives: Gives
    draw: torch.Generator


Attack = Callable[[Updates, Known], Updates]
"""From honest updates of the attackers to what they send."""


def honest(updates: Updates, _known: Known) -> Updates:
    """No attack."""
    return updates


def _of_changes(change: Change, kind: str = "") -> Attack:
    """Of every tuned value, or those of a kind, the change from what was received made another."""

    def attack(updates: Updates, known: Known) -> Updates:
        received = known.received
        return {
            client: {
                name: received[name] + change(value - received[name], known.draw)
                if name in received and name.startswith(kind)
                else value
                for name, value in update.items()
            }
            for client, update in updates.items()
        }

    return attack


def _of_entries(fits: Callable[[Entry], bool], change: Callable[[Entry, torch.Generator], Tensor]) -> Attack:
    """Every tensor of a quantity made another."""

    def attack(updates: Updates, known: Known) -> Updates:
        return {
            client: {e.name: change(e, known.draw) if fits(e) else e.tensor for e in entries(update, known.gives)}
            for client, update in updates.items()
        }

    return attack


def _is_squares(entry: Entry) -> bool:
    return entry.quantity.role in ("gram", "squares")


def _is_number(entry: Entry) -> bool:
    return entry.quantity.role == "count" and entry.quantity.counts != "sender"


def _noise(change: Tensor, draw: torch.Generator) -> Tensor:
    """Ten times as large as the change."""
    return change + 10 * change.square().mean().sqrt() * torch.randn(change.shape, generator=draw)


def _rank_one(entry: Entry, draw: torch.Generator) -> Tensor:
    """Of one direction and the same trace; a diagonal is all in one place."""
    gram = entry.tensor
    if entry.quantity.form != "triangle" or gram.ndim > 1:
        one = torch.zeros_like(gram)
        one.view(-1)[0] = gram.sum()
        return one
    size = side(gram)
    trace = gram[torch.arange(1, size + 1).cumsum(0) - 1].sum()
    vector = torch.randn(size, generator=draw, dtype=torch.float64)
    return to_triangle(torch.outer(vector, vector) * (trace / vector.square().sum())).to(gram.dtype)


def _together(updates: Updates, known: Known) -> Updates:
    """All send the mean of their updates, moved ten times as far in one direction."""
    first, received = next(iter(updates.values())), known.received
    if not any(name in received for name in first):
        return updates
    mean = {name: _mean([update[name] for update in updates.values()]) for name in first if name in received}
    sent: dict[str, Tensor] = {}
    for name, value in mean.items():
        shift = torch.randn(value.shape, generator=known.draw)
        sent[name] = value + 10 * (value - received[name]).norm() * shift / shift.norm()
    return {client: {**update, **sent} for client, update in updates.items()}


def _a_little(updates: Updates, known: Known) -> Updates:
    """Baruch et al., A Little Is Enough, NeurIPS 2019: the mean less 1.5 standard deviations, number by number."""
    found: dict[ClientId, dict[str, Tensor]] = {client: dict(update) for client, update in updates.items()}
    for name in [name for name in next(iter(updates.values())) if name in known.received]:
        stacked = torch.stack([update[name] for update in updates.values()])
        moved = stacked.mean(0) - 1.5 * stacked.std(0, correction=0)
        for update in found.values():
            update[name] = moved.clone()
    return found


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([*tensors]).mean(0)


ATTACKS: Mapping[str, Attack] = {
    "sign flip": _of_changes(lambda change, _draw: -change),
    "scaled by 10": _of_changes(lambda change, _draw: 10 * change),
    "scaled by 100": _of_changes(lambda change, _draw: 100 * change),
    "noise": _of_changes(_noise),
    "Grams times 1e3": _of_entries(_is_squares, lambda gram, _draw: 1e3 * gram.tensor),
    "Grams times 1e6": _of_entries(_is_squares, lambda gram, _draw: 1e6 * gram.tensor),
    "Grams of rank one": _of_entries(_is_squares, _rank_one),
    "counts times 100": _of_entries(_is_number, lambda count, _draw: 100 * count.tensor),
    "swapped labels": _of_changes(lambda change, _draw: change.roll(1, 0), "head/"),
    "the same shift": _together,
    "no change": _of_changes(lambda change, _draw: torch.zeros_like(change)),
    "a little is enough": _a_little,
}
"""Every attack by name."""
STEALTHY = ("a little is enough",)
"""Those that robust mode does not promise to stop: each update is like an honest one."""


@dataclass
class Attacked:
    """A transport some of whose clients attack, in every round but evaluations; `falsified` holds who did in which.

    `work` is what clients compute. Those that are `absent` in a round send nothing there: what the others make of it is
    what the honest alone make.
    """

    inner: Transport
    work: Work
    attack: Attack
    attackers: Sequence[ClientId] = ()
    absent: Container[tuple[Round, ClientId]] = ()
    falsified: list[tuple[Round, ClientId]] = field(default_factory=list[tuple[Round, ClientId]])

    @property
    def clients(self) -> Sequence[ClientId]:
        return self.inner.clients

    @property
    def evaluators(self) -> Sequence[ClientId]:
        return self.inner.evaluators

    def ask(self, questions: Mapping[ClientId, bytes], received: Tensors, round: Round) -> Generator[Answer | None]:
        """The answers of the others as they come, then those of the attackers."""
        there = {client: asked for client, asked in questions.items() if (round, client) not in self.absent}
        own: list[Answer] = []
        for found in self.inner.ask(there, received, round):
            if found and found.client in self.attackers and round.phase != EVALUATE:
                own.append(found)
            else:
                yield found
        known = Known(received, self.work.gives(round), round.generator("attack"))
        yield from self._attacked(own, known, round)

    def _attacked(self, answers: Sequence[Answer], known: Known, round: Round) -> Generator[Answer]:
        codec = Codec()
        messages = {answer.client: codec.decode(answer.payload) for answer in answers}
        honest = {client: one.tensors for client, one in messages.items() if one.text["is"] == UPDATE}
        sent = self.attack(honest, known) if honest else {}
        for answer in answers:
            client, payload = answer.client, answer.payload
            if client in sent and not _same(sent[client], honest[client]):
                payload = codec.encode(sent[client], messages[client].text)
                self.falsified.append((round, client))
            yield Answer(client, payload, kept=answer.kept)

    def kept(self) -> Tensors:
        return self.inner.kept()

    def keep(self, client: ClientId, kept: Tensors) -> None:
        self.inner.keep(client, kept)

    def close(self) -> None:
        self.inner.close()


def _same(one: Tensors, other: Tensors) -> bool:
    return all(torch.equal(one[name], value) for name, value in other.items())
