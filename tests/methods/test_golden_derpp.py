"""DER++: a reservoir that is uniform, private and of the merged model's logits, and its two terms by own loops."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fedbraid.algebra import Tensors, select
from fedbraid.core import Batch, Event, Round, Task
from fedbraid.engine import run
from fedbraid.local.objectives import Step
from fedbraid.methods import METHODS
from fedbraid.models import Adapter
from fedbraid.runtimes.codec import Codec

World = Any
Make = Callable[..., World]
CPU = torch.device("cpu")
LORA = Adapter(rank=2, blocks="0", layers=("q_proj", "fc1"))


@dataclass(frozen=True)
class Numbers:
    """Samples that are their own ids; their label is the id modulo 4."""

    ids: Tensor
    memory: Tensors = field(default_factory=dict)
    client: str = "0"

    def __len__(self) -> int:
        return len(self.ids)

    def recall(self, ids: Tensor, *, device: torch.device) -> Batch:
        return Batch({"x": ids[:, None].float()}, ids % 4)

    def batches(self, size: int, *, device: torch.device, **how: Any) -> Iterator[Batch]:
        for ids in self.ids.split(size):
            yield self.recall(ids, device=device)


@dataclass
class Scaled:
    """A model with one feature, the id, whose logit of class c is the feature times `head[c]`."""

    head: Tensor = field(default_factory=lambda: torch.zeros(0))
    device = CPU

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self.head = torch.cat([tensors[key] for key in sorted(tensors)])

    def train(self, mode: bool = True) -> None: ...

    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return inputs["x"]

    def logits(self, features: Tensor) -> Tensor:
        return features * self.head


OFFSETS = (0, 2, 5, 6)


def passed(sizes: list[int], *, seed: int = 0, buffer: int = 6) -> list[dict[str, Tensor]]:
    """The memory after each of these tasks, of which the first has the samples 0, 1, ... and so on."""
    memory: dict[str, Tensor] = {}
    found, start = [], 0
    for index, size in enumerate(sizes):
        shared = {f"head/{t}": torch.full((OFFSETS[t + 1] - OFFSETS[t],), 1.0 + index) for t in range(index + 1)}
        data = Numbers(torch.arange(start, start + size), memory)
        round = Round(Task(index, OFFSETS[: index + 2]), "remember", 0, seed)
        update = METHODS["derpp"](buffer=buffer)._remember(Scaled(), shared, data, round)
        assert update["count"].item() == size
        memory = select(update, "keep")
        assert set(update) == {"count", *(f"keep/{name}" for name in memory)}
        found.append(memory)
        start += size
    return found


def test_the_reservoir_holds_as_much_as_it_may() -> None:
    for memory, held, seen in zip(passed([4, 5, 3]), (4, 6, 6), (4, 9, 12), strict=True):
        assert len(memory["ids"]) == len(set(memory["ids"].tolist())) == held
        assert memory["seen"].item() == seen
        assert memory["ids"].max() < seen


def test_every_sample_is_kept_with_equal_probability() -> None:
    """Over 600 seeds each of 20 samples of three tasks lies in the reservoir of 6 as often as any other."""
    runs = 600
    times = torch.zeros(20)
    for seed in range(runs):
        times[passed([3, 12, 5], seed=seed)[-1]["ids"]] += 1
    p = 6 / 20
    assert ((times - runs * p).abs() <= 4.5 * math.sqrt(runs * p * (1 - p))).all()
    chi_square = (19 / 20) * ((times - runs * p).square() / (runs * p * (1 - p))).sum().item()
    assert chi_square < 44  # 19 degrees of freedom: one in a thousand is above


def test_logits_are_those_of_the_end_of_the_samples_own_task() -> None:
    """Old ones are not renewed, and are padded to the classes that came later without being known for them."""
    memory = passed([4, 5, 3])[-1]
    for i, known, z in zip(memory["ids"].tolist(), memory["known"].tolist(), memory["logits"], strict=True):
        task = 0 if i < 4 else 1 if i < 9 else 2
        assert known == OFFSETS[task + 1]
        assert z.tolist() == pytest.approx([i * (1.0 + task)] * known + [0.0] * (6 - known))
    assert len({*memory["known"].tolist()}) > 1


def test_the_terms_by_loops() -> None:
    """Two draws of their own: squares of logits where they are known, cross-entropy over all classes."""
    data = Numbers(torch.arange(0), passed([4, 5])[-1])
    model = Scaled(torch.randn(6, generator=torch.Generator().manual_seed(0)).requires_grad_())
    step = Step(
        model, {}, {}, Round(Task(2, OFFSETS), "train", 0, 0), data, Batch({}, torch.zeros(1)), *[torch.zeros(1)] * 2
    )
    torch.manual_seed(7)
    found = METHODS["derpp"](alpha=0.3, beta=0.9, batch=5)._rehearse(step)
    torch.manual_seed(7)
    squares, entropies = [], []
    for place in torch.randint(len(data.memory["ids"]), (5,)).tolist():
        i, known = data.memory["ids"][place].item(), data.memory["known"][place].item()
        squares += [(i * model.head[c] - data.memory["logits"][place][c]) ** 2 for c in range(known)]
    for place in torch.randint(len(data.memory["ids"]), (5,)).tolist():
        i = data.memory["ids"][place].item()
        entropies.append(-(i * model.head).log_softmax(0)[i % 4])
    expected = 0.3 * sum(squares) / len(squares) + 0.9 * sum(entropies) / 5
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(term, model.head)[0] for term in (found, expected)]
    assert torch.allclose(*gradients, rtol=1e-4)
    assert METHODS["derpp"]()._rehearse(replace(step, data=Numbers(torch.arange(3)))) == 0  # has seen nothing before


@dataclass(frozen=True)
class Listening(Codec):
    """Notes what every message holds."""

    heard: list[tuple[str, int]] = field(default_factory=list)

    def encode(self, tensors: Tensors, text: Mapping[str, str] | None = None) -> bytes:
        self.heard.extend((key, value.numel()) for key, value in tensors.items())
        return super().encode(tensors, text)


def test_in_a_run_the_reservoir_is_the_clients_own_and_never_on_the_wire(world: Make) -> None:
    here = world(adapter=LORA)
    method, wire = here.method("derpp", buffer=7, batch=4), Listening()
    runtime = here.runtime(method, codec=wire)
    events: list[Event] = list(run(method, here.model, here.tasks, runtime, seed=0))
    kinds = {key.split("/")[0] for key, _ in wire.heard}
    assert kinds == {"count", "lora_A", "lora_B", "head", "metric", "correct", "total"}
    remembered = [e for e in events if e.round.phase == "remember"]
    for event in remembered:
        assert max(event.outcome.bytes_up.values()) < 300  # a count
        assert set(event.outcome.total) == {"count"}
    for client, party in here.clients.items():
        memory = select(runtime.kept(), client)
        own = [party.train(task).ids for task in here.tasks]
        assert memory["seen"].item() == sum(map(len, own))
        assert len(memory["ids"]) == min(7, sum(map(len, own)))
        tasks = [next(t for t, ids in enumerate(own) if i in ids) for i in memory["ids"]]
        for i, t, z in zip(memory["ids"], tasks, memory["logits"], strict=True):
            here.model.load(remembered[t].state.shared)
            here.model.train(False)
            with torch.no_grad():
                batch = party.train(here.tasks[t]).recall(i[None], device=CPU)
                answer = here.model.logits(here.model.features(batch.inputs))[0]
            assert torch.allclose(F.pad(answer, (0, 10 - len(answer))), z, atol=1e-4)
    assert not torch.equal(remembered[0].state.shared["head/0"], remembered[2].state.shared["head/0"])
