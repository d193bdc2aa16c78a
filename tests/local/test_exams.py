"""Exams on a model without a backbone, against what its answers are known to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fedbraid.algebra import Statistic
from fedbraid.core import Batch, Round, Task
from fedbraid.evaluation import scores
from fedbraid.local.exams import Confusion, Numbers, right_answers
from fedbraid.local.objectives import Step, squared_error

OFFSETS = (0, 2, 3)


@dataclass
class Echo:
    """A model whose logits are its inputs."""

    loaded: dict[str, Tensor] = field(default_factory=dict)
    device = torch.device("cpu")

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self.loaded = dict(tensors)

    def train(self, mode: bool = True) -> None:
        assert not mode

    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return inputs["x"]

    def logits(self, features: Tensor) -> Tensor:
        return features


@dataclass(frozen=True)
class Held:
    """Test samples with labels or with numbers."""

    x: Tensor
    labels: Tensor
    targets: Tensor | None = None
    client: str = "a/b"

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int, *, device: torch.device):
        for rows in torch.arange(len(self)).split(7):
            yield Batch({"x": self.x[rows]}, self.labels[rows], None if self.targets is None else self.targets[rows])


def classes(count: int = 40) -> Held:
    draws = torch.Generator().manual_seed(1)
    return Held(torch.randn(count, 3, generator=draws), torch.randint(0, 3, (count,), generator=draws))


def test_a_confusion_matrix_is_numbered_by_the_data_set():
    data, order = classes(), (2, 0, 1)
    found = Confusion(order)(Echo(), {}, data, offsets=OFFSETS)
    said = data.x.argmax(1)
    for place, number in enumerate(order):
        for other, told in enumerate(order):
            assert found["confusion"][number, told] == ((data.labels == place) & (said == other)).sum()
    right = right_answers(Echo(), {}, data, offsets=OFFSETS)
    assert all(torch.equal(found[key], right[key]) for key in ("correct", "total"))


def test_a_matrix_adds_up_over_clients_and_has_room_for_classes_to_come():
    data = classes()
    whole = Confusion((0, 1, 2, 3))(Echo(), {}, data, offsets=OFFSETS)
    halves = [Held(data.x[rows], data.labels[rows]) for rows in (slice(0, 11), slice(11, 40))]
    parts = [Statistic(Confusion((0, 1, 2, 3))(Echo(), {}, half, offsets=OFFSETS)) for half in halves]
    assert torch.equal((parts[0] + parts[1])["confusion"], whole["confusion"])
    assert whole["confusion"][3].sum() == 0


@pytest.mark.parametrize("ranks", [True, False])
def test_numbers_are_kept_where_ranks_are_wanted(ranks):
    draws = torch.Generator().manual_seed(2)
    data = Held(
        torch.randn(20, 1, generator=draws), torch.zeros(20, dtype=torch.int64), torch.randn(20, generator=draws)
    )
    found = Numbers(ranks)(Echo(), {}, data, offsets=(0, 1))
    assert ("predicted/a/b" in found) == ranks
    expected = torch.corrcoef(torch.stack([data.x[:, 0], data.targets]))[0, 1].item()
    assert scores(found)["pearson"] == pytest.approx(expected, abs=1e-6)
    assert all(value.ndim == 0 and value.dtype == torch.float64 for key, value in found.items() if "moment" in key)


def test_squared_error_is_that_of_the_one_output():
    round = Round(Task(0, (0, 1)), "train", 0, 0)
    logits, targets = torch.tensor([[1.0], [3.0]], requires_grad=True), torch.tensor([2.0, 5.0])
    batch = Batch({}, torch.zeros(2, dtype=torch.int64), targets)
    step = Step(None, {}, {}, round, None, batch, logits, logits)
    assert squared_error(step).item() == F.mse_loss(logits[:, 0], targets).item() == 2.5
    with pytest.raises(ValueError, match="has no targets"):
        squared_error(Step(None, {}, {}, round, None, Batch({}, batch.labels), logits, logits))
