"""Small cohorts, and the steps of a masked sum one by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.secure import client, server
from fedbraid.secure.ciphers import new_identity
from fedbraid.secure.fixed_point import Layout, decode, encode
from fedbraid.secure.session import Session


@dataclass(frozen=True)
class World:
    """A session, an update of every client, and the clients' private identities."""

    session: Session
    updates: Mapping[str, Tensors]
    identities: Mapping[str, bytes]

    def plain(self, clients: tuple[str, ...]) -> dict[str, Tensor]:
        """The sum of the clients' words without any mask."""
        layout, n = self.session.layout, len(self.session.clients)
        words = sum(encode(layout, self.updates[name], clients=n) for name in clients)
        return decode(layout, words)


@dataclass
class Steps:
    """All clients' steps in order; each method takes the one step, and messages may be changed between them."""

    world: World
    stages: dict[str, object] = field(default_factory=dict)

    def keys(self) -> dict[str, bytes]:
        signs = self.world.identities
        return self._take(
            self.world.session.clients,
            lambda name: client.advertise(self.world.session, name, identity=signs.get(name)),
        )

    def shares(self, advertised: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
        return self._take(sorted(advertised), lambda name: client.share(self.stages[name], advertised))

    def inputs(self, boxes: Mapping[str, Mapping[str, bytes]]) -> dict[str, bytes]:
        return self._take(boxes, lambda name: client.mask(self.stages[name], self.world.updates[name], boxes[name]))

    def confirmations(self, survivors: tuple[str, ...], dropouts: tuple[str, ...]) -> dict[str, bytes]:
        signs = self.world.identities

        def step(name: str):
            return client.confirm(self.stages[name], survivors, dropouts, identity=signs.get(name))

        return self._take(survivors, step)

    def dealt(self) -> server.Dealt:
        keys = server.collect_keys(self.world.session, self.keys())
        return server.collect_shares(keys, self.shares(keys.advertised))

    def summed(self, *lost: str) -> server.Inputs:
        dealt = self.dealt()
        messages = self.inputs(dealt.boxes)
        return server.collect_inputs(dealt, [(name, m) for name, m in messages.items() if name not in lost])

    def reveals(self, inputs: server.Inputs) -> dict[str, dict[str, bytes]]:
        messages = self.confirmations(inputs.survivors, inputs.dropouts)
        return {name: client.reveal(self.stages[name], messages) for name in inputs.survivors}

    def _take(self, names, step) -> dict:
        messages = {}
        for name in names:
            self.stages[name], messages[name] = step(name)
        return messages


def make_world(
    clients: int = 5, threshold: int | None = None, *, signed: bool = False, seed: int = 0, round: str = "round 0"
) -> World:
    draws, numbers = random.Random(seed), torch.Generator().manual_seed(seed)
    names = tuple(sorted(f"client {draws.randrange(10**6)}-{i}" for i in range(clients)))
    updates = {
        name: {
            "gram/layer": torch.randn(3, 3, generator=numbers, dtype=torch.float64) * 100,
            "mean": torch.randn(4, generator=numbers),
            "half": torch.randn(2, generator=numbers).bfloat16(),
            "count": torch.tensor(draws.randrange(-(10**9), 10**9)),
        }
        for name in names
    }
    pairs = {name: new_identity() for name in names} if signed else {}
    public = {name: pair[1] for name, pair in pairs.items()}
    session = Session("run", round, names, Layout.of(updates[names[0]]), threshold, public)
    return World(session, updates, {name: pair[0] for name, pair in pairs.items()})


@pytest.fixture(scope="session")
def world() -> Callable[..., World]:
    return make_world


@pytest.fixture(scope="session")
def steps() -> Callable[[World], Steps]:
    return Steps
