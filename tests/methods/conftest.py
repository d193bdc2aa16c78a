"""Tiny federated worlds: a few digits, the embedded backbone, clients in this process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from fedbraid.core import Event, Method, Task
from fedbraid.data import Dataset, Partition, Party, Stream, load, make_clients, make_partition, make_stream
from fedbraid.engine import Start, run
from fedbraid.local.training import Training
from fedbraid.methods import METHODS, Setting, make
from fedbraid.models import AdaptedModel, Adapter, load_backbone
from fedbraid.phases import Sampled, everyone
from fedbraid.runtimes.inprocess import in_process
from fedbraid.runtimes.server import Server

PLAN = Training(epochs=1, batch_size=32, lr=3e-3, augment=False)
LORA = Adapter(rank=2, blocks="0-1", layers=("q_proj", "query", "fc2", "fc1"))


@dataclass
class World:
    """A stream over clients, and a model that serves them."""

    dataset: Dataset
    stream: Stream
    clients: Mapping[str, Party]
    evaluators: Mapping[str, Party]
    adapter: Adapter
    model: AdaptedModel
    plan: Training = PLAN

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.stream.tasks

    def method(
        self,
        name: str,
        rounds: int = 2,
        sampled: int = 0,
        test_offsets: Sequence[int] | None = None,
        **options: Any,
    ) -> Method:
        cohort = Sampled(sampled) if sampled else everyone
        setting = Setting(self.adapter, self.plan, rounds, cohort=cohort, test_offsets=test_offsets)
        return make(METHODS[name](**options), setting)

    def runtime(self, method: Method, **options: Any) -> Server:
        return in_process(method, self.model, self.clients, self.evaluators, **options)

    def run(self, method: Method, *, seed: int = 0, start: Start | None = None, **options: Any) -> list[Event]:
        runtime = self.runtime(method, **options)
        return list(run(method, self.model, self.tasks, runtime, seed=seed, start=start))

    def fresh_model(self) -> AdaptedModel:
        return AdaptedModel(load_backbone("tiny"), self.adapter)

    def pixels(self, task: Task, client: str | None = None) -> Tensor:
        """The prepared images of a task's training samples, of one client or of all."""
        parties = [self.clients[client]] if client else self.clients.values()
        found = [
            batch.inputs["pixel_values"]
            for party in parties
            for batch in party.train(task).batches(1000, device=torch.device("cpu"))
        ]
        return torch.cat(found)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load("digits", train_per_class=12, test_per_class=5)


@pytest.fixture(scope="session")
def world(digits: Dataset) -> Callable[..., World]:
    """A world of its own for these settings."""

    def make(
        *,
        sizes: Sequence[int] = (3, 2, 5),
        clients: int = 3,
        adapter: Adapter = LORA,
        plan: Training = PLAN,
        shares: Mapping[str, Sequence[int]] | None = None,
        joined: bool = False,
    ) -> World:
        stream = make_stream(10, sizes=sizes, order="random", seed=1)
        stream = stream.joined() if joined else stream
        if shares is not None:
            held = {client: tuple(sorted(indices)) for client, indices in shares.items()}
            partition = Partition("own", digits.fingerprint, len(digits.train), held)
        else:
            kind = "iid" if clients == 1 else "dirichlet"
            partition = make_partition(digits, stream, kind=kind, clients=clients, min_samples=1)
        backbone = load_backbone("tiny")
        parties, evaluators = make_clients(digits, stream, partition, backbone.input)
        return World(digits, stream, parties, evaluators, adapter, AdaptedModel(backbone, adapter), plan)

    return make
