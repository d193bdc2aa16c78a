"""Clients' data in memory, and a small BERT on disk."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedbraid.core import Batch, Round, Task
from fedbraid.models import AdaptedModel, Adapter, load_backbone
from fedbraid.testing import random_bert


@dataclass(frozen=True)
class Samples:
    """Inputs and labels in memory: the `Data` of these tests."""

    inputs: Mapping[str, Tensor]
    labels: Tensor
    client: str = "7"

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, size: int, *, device: torch.device, shuffle: torch.Generator | None = None, augment: bool = False
    ) -> Iterator[Batch]:
        order = torch.arange(len(self)) if shuffle is None else torch.randperm(len(self), generator=shuffle)
        for rows in order.split(size):
            yield Batch({key: value[rows] for key, value in self.inputs.items()}, self.labels[rows])


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a BERT with random weights and a WordPiece tokenizer."""
    return random_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def images() -> Samples:
    """25 images of four classes for the tiny backbone."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (25,), generator=draws)
    pixels = torch.randn(25, 1, 16, 16, generator=draws) * 0.3 + labels.reshape(-1, 1, 1, 1) * 0.4
    return Samples({"pixel_values": pixels}, labels)


@pytest.fixture
def texts(bert: Path) -> Samples:
    """Sentences of very different lengths, so that batches hold much padding."""
    sentences = ["cat", "the big red dog ran under the small tree and then home", "a dog sat", "mat on mat", "fast"]
    rows = load_backbone(str(bert)).input.tokenize(sentences)
    return Samples(dict(rows), torch.tensor([0, 1, 2, 3, 0]))


@pytest.fixture
def tiny() -> AdaptedModel:
    return AdaptedModel(load_backbone("tiny"), Adapter(rank=3, blocks="0-1"))


@pytest.fixture
def text_model(bert: Path) -> AdaptedModel:
    return AdaptedModel(load_backbone(str(bert), pooling="mean"), Adapter(rank=3))


@pytest.fixture
def the_round() -> Round:
    """The first training round of the second of two tasks, which brings the classes 2 and 3."""
    return Round(Task(1, (0, 2, 4)), "train", 0, 5)


@pytest.fixture
def drawn() -> Callable[[AdaptedModel], dict[str, Tensor]]:
    """Tuned values with an effect: both factors and both tasks' heads at random."""

    def values(model: AdaptedModel) -> dict[str, Tensor]:
        draws = torch.Generator().manual_seed(3)
        result = model.fresh(draws)
        result |= {k: torch.randn(v.shape, generator=draws) * 0.05 for k, v in result.items() if "lora_B" in k}
        return result | {f"head/{t}": torch.randn(2, model.width + 1, generator=draws) * 0.1 for t in (0, 1)}

    return values
