"""Who holds which samples: each task's training data shared out among clients.

    dirichlet   for every class of the task p ~ Dir(beta 1_K); each sample goes to a client drawn by p,
                independently; the task is drawn again until every client has `min_samples`. That conditions
                the law: clients are more alike than plain Dirichlet draws, most of all at a small beta.
    quantity    every client draws alpha classes of the task without replacement, drawn again until all
                classes have an owner; a class is spread evenly over its owners. Where that does not come about
                (one class a client), classes are dealt so that each has an owner, and the rest is drawn.
    iid         the task's samples in a random order, dealt evenly.
    natural     by the data's own client column.

Each task has a generator of its own, seeded by (seed, task, "partition").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedbraid.core import ClientId, Task
from fedbraid.data.held import Dataset
from fedbraid.data.sampling import derive
from fedbraid.data.streams import Stream
from fedbraid.errors import UserError
from fedbraid.naming import check_name

PARTITIONS = ("dirichlet", "quantity", "iid", "natural")
REDRAWS = 1000
"""How often a task is drawn before the partition is given up."""

EVALUATOR = "test"
"""The id of the party that holds the test samples; no training client may bear it."""

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Partition:
    """The training samples of each client, by index, sorted; `samples` counts the whole training table."""

    kind: str
    fingerprint: str
    samples: int
    clients: Mapping[ClientId, tuple[int, ...]]


def make_partition(
    dataset: Dataset,
    stream: Stream,
    *,
    kind: str,
    clients: int = 10,
    beta: float = 0.5,
    alpha: int = 2,
    min_samples: int = 6,
    seed: int = 0,
) -> Partition:
    """The training data shared out; `beta` and `min_samples` serve "dirichlet", `alpha` serves "quantity".

    Simulated clients are called "0", "1", ..., padded with zeros to equal length. With `kind="natural"` the
    clients are those of the data.
    """
    if kind == "natural":
        return _partition(kind, dataset, _natural(dataset))
    kinds: dict[str, Callable[[_Draw], Integers]] = {
        "dirichlet": lambda draw: _dirichlet(draw, beta, min_samples),
        "quantity": lambda draw: _quantity(draw, alpha),
        "iid": lambda draw: draw.dealt(len(draw.classes), np.arange(clients)),
    }
    if kind not in kinds:
        raise UserError(f"partition.kind is {kind!r}; known are {', '.join(PARTITIONS)}")
    return _partition(kind, dataset, _simulated(dataset, stream, clients, seed, kinds[kind]))


def _simulated(
    dataset: Dataset, stream: Stream, clients: int, seed: int, draw_owners: Callable[[_Draw], Integers]
) -> dict[ClientId, tuple[int, ...]]:
    size = len(dataset.train)
    if not 1 <= clients <= size:
        raise UserError(f"partition.clients is {clients}; {size} training samples serve 1 to {size} clients")
    placed = stream.place(dataset.train.labels).numpy()
    owners = np.full(size, -1)
    for task in stream.tasks:
        held = np.flatnonzero((placed >= task.classes.start) & (placed < task.classes.stop))
        if not len(held):
            raise UserError(f"task {task.index} has no training samples; change the stream or the classes")
        rng = np.random.default_rng(derive(seed, task.index, "partition"))
        owners[held] = draw_owners(_Draw(task, placed[held], clients, rng))
    width = len(str(clients - 1))
    return {str(c).zfill(width): tuple(np.flatnonzero(owners == c).tolist()) for c in range(clients)}


def _partition(kind: str, dataset: Dataset, shares: Mapping[ClientId, tuple[int, ...]]) -> Partition:
    empty = [client for client, indices in shares.items() if not indices]
    if empty:
        raise UserError(
            f"{len(empty)} of {len(shares)} clients get no sample in any task, client {empty[0]} for one; "
            "use fewer clients (partition.clients) or more data"
        )
    return Partition(kind, dataset.fingerprint, len(dataset.train), shares)


def _natural(dataset: Dataset) -> dict[ClientId, tuple[int, ...]]:
    if dataset.train.clients is None:
        raise UserError(
            f"{dataset.name} has no client column, which partition.kind = 'natural' needs; "
            "name it with data.client_column, or choose another kind"
        )
    shares: dict[ClientId, list[int]] = {}
    for index, client in enumerate(dataset.train.clients):
        shares.setdefault(client, []).append(index)
    check_clients(shares, f"{dataset.name}, the client column")
    return {client: tuple(shares[client]) for client in sorted(shares)}


def check_clients(clients: Iterable[ClientId], where: str) -> None:
    """Nothing where these ids can be those of clients; `UserError` says `where` one is read that cannot."""
    for client in clients:
        advice = "rename this client, in letters and signs that can be seen and at most 200 of them"
        check_name(client, f"{where}: the client", advice)
        if client == EVALUATOR:
            raise UserError(f"{where} holds {EVALUATOR!r}, the name of the evaluator; rename this client")


@dataclass(frozen=True)
class _Draw:
    """What a kind needs to share out a task: each sample's class, how many clients, the source of chance."""

    task: Task
    classes: Integers
    clients: int
    rng: np.random.Generator

    def dealt(self, count: int, owners: Integers) -> Integers:
        """An owner for each of `count` samples, at random; the owners' shares differ by one at most."""
        return self.rng.permutation(np.resize(self.rng.permutation(owners), count))

    def again(self, draw: Callable[[], Integers | None]) -> Integers | None:
        """The first draw that is accepted; None where too many are not."""
        return next((result for result in (draw() for _ in range(REDRAWS)) if result is not None), None)


def _dirichlet(draw: _Draw, beta: float, min_samples: int) -> Integers:
    if not beta > 0:
        raise UserError(f"partition.beta is {beta}; it must be greater than 0")
    if len(draw.classes) < draw.clients * min_samples:
        raise UserError(
            f"task {draw.task.index} has {len(draw.classes)} samples, too few for {draw.clients} clients "
            f"with partition.min_samples = {min_samples} each; lower it, or lower partition.clients"
        )

    def once() -> Integers | None:
        owners = np.empty(len(draw.classes), dtype=np.int64)
        for label in draw.task.classes:
            of_class = np.flatnonzero(draw.classes == label)
            shares = draw.rng.dirichlet(np.full(draw.clients, beta))
            owners[of_class] = draw.rng.choice(draw.clients, size=len(of_class), p=shares)
        enough = np.bincount(owners, minlength=draw.clients).min() >= min_samples
        return owners if enough else None

    owners = draw.again(once)
    if owners is None:
        raise UserError(
            f"task {draw.task.index}: in {REDRAWS} draws some client always had less than partition.min_samples = "
            f"{min_samples} samples; lower it, raise partition.beta = {beta}, or use fewer clients "
            f"(partition.clients = {draw.clients})"
        )
    return owners


def _quantity(draw: _Draw, alpha: int) -> Integers:
    count = len(draw.task.classes)
    if not 1 <= alpha <= count:
        raise UserError(f"partition.alpha is {alpha}; task {draw.task.index} has {count} classes to draw from")
    if alpha * draw.clients < count:
        raise UserError(
            f"task {draw.task.index} has {count} classes, but {draw.clients} clients with "
            f"partition.alpha = {alpha} own {alpha * draw.clients} at most; raise one of them"
        )

    def once() -> Integers | None:
        chosen = draw.rng.random((draw.clients, count)).argsort(axis=1)[:, :alpha]
        return chosen if len(np.unique(chosen)) == count else None

    found = draw.again(once)
    chosen = _covering(draw, alpha, count) if found is None else found
    owners = np.empty(len(draw.classes), dtype=np.int64)
    for number, label in enumerate(draw.task.classes):
        of_class = np.flatnonzero(draw.classes == label)
        owners[of_class] = draw.dealt(len(of_class), np.flatnonzero((chosen == number).any(1)))
    return owners


def _covering(draw: _Draw, alpha: int, count: int) -> Integers:
    """(clients, alpha) classes, every class among them: dealt to clients in turn, the places that are left drawn."""
    dealt = [list[int]() for _ in range(draw.clients)]
    turn = draw.rng.permutation(draw.clients)
    for place, number in enumerate(draw.rng.permutation(count).tolist()):
        dealt[turn[place % draw.clients]].append(number)
    for own in dealt:
        others = [number for number in draw.rng.permutation(count).tolist() if number not in own]
        own += others[: alpha - len(own)]
    return np.array(dealt)
