"""The sections of a configuration: every key, its default and its range."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A table of the configuration: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class DataConfig(Section):
    """What is learned: a data set known by name, or a path to one's own."""

    name: str = "digits"
    path: str | None = None
    """A local copy of a known data set, in the layout of its source."""
    text_column: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    client_column: str | None = None
    classes: int | list[str | int] | None = None
    train_per_class: int | None = Field(default=None, ge=1)
    test_per_class: int | None = Field(default=None, ge=1)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    validation_fraction: float | None = Field(default=None, gt=0, lt=1)
    """A share of the training samples held out in place of the test samples: for choosing settings."""
    augment: Literal["auto", "none", "flip", "crop_flip", "resized_crop_flip"] = "auto"
    """auto: what is usual for a known data set, none for one's own."""


class StreamConfig(Section):
    """How classes arrive: `tasks` equal tasks, or tasks of the given `sizes`."""

    tasks: int | None = Field(default=None, ge=1)
    sizes: list[int] | None = None
    order: Literal["natural", "random"] | list[str | int] = "natural"


class PartitionConfig(Section):
    """How training data is spread over clients."""

    kind: Literal["auto", "dirichlet", "quantity", "natural", "iid"] = "auto"
    """auto: natural where the data name clients, else dirichlet."""
    clients: int = Field(default=5, ge=1)
    beta: float = Field(default=0.5, gt=0)
    alpha: int = Field(default=2, ge=1)
    min_samples: int = Field(default=6, ge=1)
    clients_per_round: int | None = Field(default=None, ge=1)
    file: str | None = None
    """A partition.json of another run to use as it is."""


class BackboneConfig(Section):
    """The pre-trained model: tiny, a hub id, a local folder, or timm:NAME[@FILE]."""

    name: str = "tiny"
    pooling: Literal["auto", "cls", "mean", "decoder"] = "auto"
    max_length: int = Field(default=128, ge=1)


class AdapterConfig(Section):
    """What is tuned (see `fedbraid.models.Adapter`)."""

    kind: Literal["auto", "lora", "full", "none", "prompt"] = "auto"
    """auto: the first kind that the method names."""
    rank: int = Field(default=4, ge=1)
    alpha: float | None = None
    dropout: float = Field(default=0.0, ge=0, lt=1)
    layers: str | list[str] = "all"
    blocks: str = ""


class TrainingConfig(Section):
    """How clients train (see `fedbraid.local.training.Training`)."""

    rounds: int = Field(default=4, ge=1)
    epochs: int = Field(default=5, ge=1)
    batch_size: int = Field(default=16, ge=1)
    lr: float = Field(default=3e-3, gt=0)
    lr_head: float | None = Field(default=None, gt=0)
    lr_A: float | None = Field(default=None, gt=0)
    lr_B: float | None = Field(default=None, gt=0)
    lr_base: float | None = Field(default=None, gt=0)
    lr_prompt: float | None = Field(default=None, gt=0)
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    weight_decay: float = Field(default=0.0, ge=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"


class RunConfig(Section):
    """Where and how the run computes."""

    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    evaluate: Literal["round", "task"] = "round"


class Config(Section):
    """A whole run. `method` holds the method's name and its options."""

    method: dict[str, Any] = Field(default_factory=lambda: {"name": "lorm"})
    data: DataConfig = DataConfig()
    stream: StreamConfig = StreamConfig()
    partition: PartitionConfig = PartitionConfig()
    backbone: BackboneConfig = BackboneConfig()
    adapter: AdapterConfig = AdapterConfig()
    training: TrainingConfig = TrainingConfig()
    run: RunConfig = RunConfig()
