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
    prompt_column: str | None = None
    """The prompts to a language model, where their answers have a column too."""
    answer_column: str | None = None
    category_column: str | None = None
    """The classes of prompts; unset: data.label_column, or one class."""
    pair_column: str | None = None
    """The second halves, where texts come in pairs."""
    image_column: str | None = None
    label_column: str | None = None
    client_column: str | None = None
    classes: int | list[str | int] | None = None
    train_per_class: int | None = Field(default=None, ge=1)
    test_per_class: int | None = Field(default=None, ge=1)
    train_samples: int | None = Field(default=None, ge=1)
    """So many of all, the classes in proportion."""
    test_samples: int | None = Field(default=None, ge=1)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    validation_fraction: float | None = Field(default=None, gt=0, lt=1)
    """A share of the training samples held out in place of the test samples: for choosing settings."""
    template: Literal["plain", "alpaca", "chat"] = "plain"
    """How prompts are worded. plain: as is usual for a known data set, one's own as they are, a line break after it."""
    match: Literal["auto", "text", "final", "option"] = "auto"
    """When a written answer is right (see `fedbraid.local.text_scores`). auto: as is usual for a known data set."""
    scores: list[str] | None = None
    """What models are measured by, the main one first; unset: what the data set names, accuracy for one's own."""
    augment: Literal["auto", "none", "flip", "crop_flip", "resized_crop_flip"] = "auto"
    """auto: what is usual for a known data set, none for one's own."""


class StreamConfig(Section):
    """How classes arrive: `tasks` equal tasks, or tasks of the given `sizes`."""

    tasks: int | None = Field(default=None, ge=1)
    sizes: list[int] | None = None
    order: Literal["natural", "random"] | list[str | int] = "natural"


class PartitionConfig(Section):
    """How training data is spread over clients."""

    kind: Literal["auto", "dirichlet", "quantity", "natural", "iid", "sites"] = "auto"
    """auto: natural where the data name clients, else dirichlet. sites: every client has data of its own elsewhere."""
    clients: int = Field(default=5, ge=1)
    beta: float = Field(default=0.5, gt=0)
    alpha: int = Field(default=2, ge=1)
    min_samples: int = Field(default=6, ge=1)
    clients_per_round: int | None = Field(default=None, ge=1)
    file: str | None = None
    """A partition.json of another run to use as it is."""
    sites: list[str] | None = None
    """The clients of a deployed run."""


class BackboneConfig(Section):
    """The pre-trained model: tiny, a hub id, a local folder, or timm:NAME[:PIXELS][@FILE]."""

    name: str = "tiny"
    pooling: Literal["auto", "cls", "mean", "decoder"] = "auto"
    max_length: int | None = Field(default=None, ge=1)
    """The longest text in tokens; unset: 128, and 512 for a prompt with its answer."""
    dtype: Literal["fp32", "bf16", "4bit"] = "fp32"
    """How a language model's frozen weights are held."""


class AdapterConfig(Section):
    """What is tuned (see `fedbraid.models.Adapter`)."""

    kind: Literal["auto", "lora", "vera", "lora_xs", "ia3", "full", "none", "prompt"] = "auto"
    """auto: the first kind that the method names."""
    rank: int = Field(default=4, ge=1)
    ranks: list[int] | None = None
    """Ranks of clients that train less than `rank`: in turn over the clients, in the order of their ids."""
    alpha: float | None = None
    alphas: list[float] | None = None
    """LoRA's alpha by client, in turn as `ranks`; a client's scale is its alpha / its rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    layers: str | list[str] = "all"
    blocks: str = ""
    scaled: Literal["output", "input", "peft"] = "output"


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
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Of a language model's next tokens."""
    gradient_checkpointing: bool = False
    """Computes a language model's blocks twice, to hold less of them."""


class GenerationConfig(Section):
    """How a language model writes its answers to test samples."""

    max_new_tokens: int = Field(default=128, ge=1)
    batch_size: int = Field(default=16, ge=1)
    beams: int = Field(default=1, ge=1)


class HealthConfig(Section):
    """Above which the report gives a health sign (see `fedbraid.reports.health`); changes nothing in the run itself."""

    noise: float = Field(default=0.2, ge=0)
    """Aggregation noise: the share of a layer's mean update that averaging the factors loses."""
    forgetting: float = Field(default=20.0, ge=0)
    """Forgetting spike: the points of accuracy that an earlier task loses while another is learned."""
    budget: float | None = Field(default=None, gt=0)
    """Communication bloat: the numbers that a client sends in a round; unset: no sign."""


class RoundsConfig(Section):
    """When a round ends, and when a run pauses (see `fedbraid.runtimes.server.Rules`)."""

    deadline: float | None = Field(default=None, gt=0)
    """Seconds that a round may take; unset: as long as its clients do."""
    quorum: float = Field(default=1.0, gt=0, le=1)
    """The share of a round's clients that must have answered; below it the run pauses with its state saved."""
    retries: int = Field(default=0, ge=0)
    """How often a client that failed is asked again."""


class GateConfig(Section):
    """What is checked of an update before it is added (see `fedbraid.runtimes.limits.Limits`)."""

    check: bool = True
    """Whether updates are checked at all."""
    samples: float = Field(default=1e9, ge=1)
    """The largest count."""
    value: float = Field(default=1e6, gt=0)
    """The largest tuned value, in size."""
    growth: float = Field(default=10.0, ge=1)
    """The most by which a larger one may exceed the largest received under its name."""
    sample: float = Field(default=1e9, gt=0)
    """The most that one sample may add to a sum, in size."""
    trace: float = Field(default=1e18, gt=0)
    """The largest total trace of a Gram."""
    rounding: float = Field(default=16.0, ge=1)
    """How far below zero an eigenvalue of a Gram may lie, in roundings of its trace on the wire."""
    spare: int = Field(default=65536, ge=0)
    """Bytes of a message beyond those of its numbers and names."""


class RobustConfig(Section):
    """Which updates are refused for being strange among the others (see `fedbraid.runtimes.robust.Thresholds`)."""

    select: bool = False
    """Whether updates are compared at all."""
    weight: float = Field(default=30.0, ge=1)
    """The most that a count, or the trace of a Gram without one, may exceed the median of the round's clients."""
    trace: float = Field(default=10.0, ge=1)
    """How far the trace of a Gram by sample may lie from the median, up or down."""
    spread: float = Field(default=10.0, ge=1)
    """How far below the median the share of a Gram that is not of rank one may lie."""
    change: float = Field(default=4.0, ge=1)
    """How much larger than the median the change of a kind of values may be, or a sum over samples."""
    tensor: float = Field(default=10.0, ge=1)
    """The same of a single tensor of a kind."""
    still: float = Field(default=100.0, ge=1)
    """How much smaller than the median all changes of an update may be."""
    opposed: float | None = Field(default=None, gt=0)
    """How strongly an update may point against the others, as a share of how strongly they agree. Unset: 0.6, and no
    limit in tasks of two classes or fewer."""
    alike: bool = False
    """Whether clients are known to hold the same classes, so that all must point in about one direction."""
    deviations: float = Field(default=3.0, ge=0)
    """A limit is never nearer than so many standard deviations."""
    most: float = Field(default=0.3, gt=0, lt=0.5)
    """The largest share of a round's updates that is refused."""
    fallback: Literal["clip", "pause"] = "clip"
    """What happens to a round in which more would be."""
    clip: float = Field(default=1.5, ge=1)
    """By how much a clipped update's changes and weights may exceed the median."""


class PrivacyConfig(Section):
    """What may leave a client, and with how much noise (see `docs/privacy.md`); no noise without an `epsilon`."""

    small_grams: Literal["auto", "refuse", "allow"] = "auto"
    """Grams on too few samples. auto: refused at sites on machines of their own, told where one machine has all."""
    least_samples: int = Field(default=1, ge=1)
    """The fewest samples behind any message of a client, of training as of evaluation, and of a class behind sums by
    class."""
    epsilon: float | None = Field(default=None, gt=0)
    """The most that a run may spend of every client's samples."""
    delta: float = Field(default=1e-5, gt=0, lt=1)
    samples: int | None = Field(default=None, ge=1)
    """The samples of a client in a task as anybody may know them, since the true number is private. Steps, the sampling
    rate and the clients' weights follow from it."""
    clip: float = Field(default=1.0, gt=0)
    """The largest norm of one sample's gradient."""
    noise: float | None = Field(default=None, gt=0)
    """The noise multiplier of steps; unset: the smallest with which the whole run stays within its budget."""
    clip_grams: float = Field(default=1000.0, gt=0)
    """The largest norm of what one sample adds to the diagonal Grams of all layers."""
    noise_grams: float = Field(default=4.0, gt=0)
    """The noise multiplier of diagonal Grams, as a multiple of that of steps."""


class SecureConfig(Section):
    """Whether the server sees sums alone (see `docs/masked.md`)."""

    masked: bool = False
    threshold: int | None = Field(default=None, ge=3)
    """How many clients of a round must take part until its end; unset: more than two thirds. It is above a half."""
    identities: dict[str, str] | None = None
    """The clients' public keys by client, in hexadecimal: messages are signed, and a lying server is found out."""


class RunConfig(Section):
    """Where and how the run computes."""

    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1, le=1024)
    evaluate: Literal["round", "task"] = "round"
    runtime: Literal["inprocess", "flower", "deployed"] = "inprocess"
    """flower: the same run on Flower's simulation, several clients at once in processes of their own. deployed: clients
    are sites of a federation (see 'fedbraid deploy')."""
    at_once: int | None = Field(default=None, ge=1)
    """How many; unset: as many as there are cores for."""
    gpus: int | None = Field(default=None, ge=1)
    """How many accelerators Flower's simulation uses; unset: all that this machine has."""
    ray: str | None = Field(default=None, min_length=1)
    """The address of a Ray cluster that the simulation joins, or auto; unset: Ray is started on this machine alone."""


class Config(Section):
    """A whole run. `method` holds the method's name and its options."""

    method: dict[str, Any] = Field(default_factory=lambda: {"name": "lorm"})
    data: DataConfig = DataConfig()
    stream: StreamConfig = StreamConfig()
    partition: PartitionConfig = PartitionConfig()
    backbone: BackboneConfig = BackboneConfig()
    adapter: AdapterConfig = AdapterConfig()
    training: TrainingConfig = TrainingConfig()
    generation: GenerationConfig = GenerationConfig()
    run: RunConfig = RunConfig()
    rounds: RoundsConfig = RoundsConfig()
    gate: GateConfig = GateConfig()
    robust: RobustConfig = RobustConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    secure: SecureConfig = SecureConfig()
    health: HealthConfig = HealthConfig()
