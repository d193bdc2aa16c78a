"""From a configuration to objects: data, stream, partition, model, method and server, tied together.

This is the only place where names become things; everything below it knows nothing of configurations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fedbraid import config as configs
from fedbraid import language, plugins
from fedbraid.algebra import Tensors
from fedbraid.checkpoint import Checkpoint
from fedbraid.config import Config
from fedbraid.core import ClientId, Event, ImageInput, Method, PromptInput, Runtime
from fedbraid.data import (
    Dataset,
    Partition,
    Party,
    Stream,
    load,
    load_partition,
    make_clients,
    make_partition,
    make_stream,
    source_of,
)
from fedbraid.engine import Start, run, schedule
from fedbraid.errors import UserError
from fedbraid.local.exams import Confusion, Numbers
from fedbraid.local.objectives import squared_error
from fedbraid.methods import METHODS, Options, Setting, make
from fedbraid.models import AdaptedModel, LanguageModel, load_backbone
from fedbraid.phases import Sampled, everyone
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.exchange import Transport
from fedbraid.runtimes.gate import Gate
from fedbraid.runtimes.inprocess import InProcess
from fedbraid.runtimes.limits import Limits
from fedbraid.runtimes.server import Rules, Server

MAX_LENGTH = 128
"""The longest text in tokens, where backbone.max_length says nothing; prompts with answers are longer."""


@dataclass(frozen=True)
class Experiment:
    """Everything that a run needs. `stream` is what is reported by task, also where a method joins the tasks."""

    config: Config
    dataset: Dataset
    stream: Stream
    partition: Partition
    method: Method
    model: AdaptedModel | LanguageModel
    clients: Mapping[ClientId, Party]
    evaluators: Mapping[ClientId, Party]

    @property
    def tasks(self):
        """The tasks that are trained one after another."""
        return (self.stream.joined() if configs.options(self.config).about.centralised else self.stream).tasks

    @property
    def rounds(self) -> int:
        return len(schedule(self.method, self.tasks, self.config.run.seed))

    @cached_property
    def work(self) -> Work:
        """How updates are computed and sent."""
        return Work(self.method, self.model, Codec())

    def here(self, kept: Tensors | None = None) -> InProcess:
        """All parties in this process; `kept` is what they kept for themselves before."""
        return InProcess(self.work, self.clients, self.evaluators, kept=kept)

    def server(self, transport: Transport, **options: Any) -> Server:
        """The runtime over a transport, by the rules of the configuration; the options are those of `Server`."""
        limits = _limits(self.config)
        gate = Gate(self.work, limits) if limits else None
        return Server(self.work, transport, rules=_rules(self.config), gate=gate, **options)

    def events(self, runtime: Runtime | None = None, start: Checkpoint | None = None) -> Iterator[Event]:
        """The run, from its beginning or a checkpoint, one event a finished round; without a runtime in process."""
        settings = self.config.run
        begin = Start(start.done, start.state) if start else None
        yield from run(
            self.method,
            self.model,
            self.tasks,
            runtime or self.server(self.here()),
            seed=settings.seed,
            start=begin,
            evaluate=settings.evaluate,
        )


def build(config: Config, *, partition_file: Path | None = None) -> Experiment:
    """The experiment of a configuration, whose open choices (`auto`) are settled in the result's own.

    Sets torch's number of threads, since equal bits need an equal number. Raises `UserError` for data, weights or
    settings that do not fit together.
    """
    torch.set_num_threads(_threads(config))
    language.check_settings(config)
    dataset = _load_data(config)
    dataset = language.measurable(dataset) if dataset.modality == "language" else dataset
    stream = _stream(config, dataset)
    config = _settled(config, dataset, stream)
    options = configs.options(config)
    if dataset.modality not in options.about.modalities:
        known = " and ".join(options.about.modalities)
        raise UserError(
            f"method {options.about.name!r} knows {known} data, {dataset.name!r} is {dataset.modality} data"
        )
    trained = stream.joined() if options.about.centralised else stream
    partition = _partition(config, dataset, trained, partition_file, centralised=options.about.centralised)
    model = load_model(config)
    _check_modality(model, dataset)
    wording = {"augment": config.data.augment, "template": language.template(config)}
    clients, evaluators = make_clients(dataset, trained, partition, model.input, **wording)
    if isinstance(model.input, PromptInput):
        dataset = language.noted(dataset, clients, evaluators, model.input)
    count = config.partition.clients_per_round
    if count and count > len(clients):
        raise UserError(f"partition.clients_per_round = {count}, but there are {len(clients)} clients")
    setting = Setting(
        model.adapter,
        configs.training(config, augment=config.data.augment != "none"),
        config.training.rounds,
        cohort=Sampled(count) if count else everyone,
        test_offsets=stream.offsets if options.about.centralised else None,
        **configs.capacities(config, sorted(clients)),
        **_learned(config, dataset, stream, options),
    )
    method = make(options, setting)
    return Experiment(config, dataset, stream, partition, method, model, clients, evaluators)


def load_model(config: Config) -> AdaptedModel | LanguageModel:
    """The model of a configuration, with its adapter, on the run's device."""
    values, chosen = config.backbone, device(config.run.device)
    if language.is_language(config):
        return language.load_model(config, chosen)
    backbone = load_backbone(values.name, pooling=values.pooling, max_length=values.max_length or MAX_LENGTH)
    return AdaptedModel(backbone, configs.adapter(config), device=chosen, precision=config.training.precision)


def device(name: str) -> torch.device:
    """The device of that name; `auto` is the accelerator where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"run.device = {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return chosen


def _rules(config: Config) -> Rules:
    values = config.rounds
    return Rules(values.deadline, values.quorum, values.retries)


def _limits(config: Config) -> Limits | None:
    """What the gate checks by; None where it checks nothing."""
    values = config.gate.model_dump()
    return Limits(**values) if values.pop("check") else None


def _threads(config: Config) -> int:
    """As many as torch takes; one for the embedded backbone, whose operations are too small to share."""
    return config.run.threads or (1 if config.backbone.name == "tiny" else torch.get_num_threads())


def _load_data(config: Config) -> Dataset:
    values = config.data
    return load(
        values.name,
        path=values.path,
        text_column=values.text_column,
        prompt_column=values.prompt_column,
        answer_column=values.answer_column,
        category_column=values.category_column,
        pair_column=values.pair_column,
        image_column=values.image_column,
        label_column=values.label_column,
        client_column=values.client_column,
        classes=values.classes,
        train_per_class=values.train_per_class,
        test_per_class=values.test_per_class,
        train_samples=values.train_samples,
        test_samples=values.test_samples,
        test_fraction=values.test_fraction,
        validation_fraction=values.validation_fraction,
        scores=values.scores,
        seed=config.run.seed,
    )


def _stream(config: Config, dataset: Dataset) -> Stream:
    values = config.stream
    tasks = values.tasks
    known = source_of(config.data.name)
    if tasks is None and values.sizes is None:
        usual = known.tasks if known and len(dataset.class_names) == known.classes else None
        tasks = 1 if dataset.modality == "language" else usual
    return make_stream(
        len(dataset.class_names),
        tasks=tasks,
        sizes=values.sizes,
        order=values.order,
        class_names=dataset.class_names,
        seed=config.run.seed,
    )


def _settled(config: Config, dataset: Dataset, stream: Stream) -> Config:
    """The configuration with every `auto` decided and local paths made absolute, so that it can be run anywhere."""
    known = source_of(config.data.name)
    augment = config.data.augment if config.data.augment != "auto" else known.augment if known else "none"
    kind = config.partition.kind
    if kind == "auto":
        kind = "natural" if dataset.train.clients else "dirichlet"
    name = config.data.name
    own = plugins.absolute(name) if plugins.is_reference(name) else name if known else _absolute(name)
    sizes, prompts = config.stream.sizes, dataset.modality == "language"
    return config.model_copy(
        update={
            "data": config.data.model_copy(
                update={"name": own, "path": _absolute(config.data.path), "augment": augment}
            ),
            "stream": config.stream.model_copy(update={"tasks": None if sizes else len(stream.offsets) - 1}),
            "partition": config.partition.model_copy(update={"kind": kind, "file": _absolute(config.partition.file)}),
            "adapter": config.adapter.model_copy(update={"kind": configs.adapter(config).kind}),
            "run": config.run.model_copy(update={"threads": _threads(config)}),
            "backbone": config.backbone.model_copy(
                update={
                    "name": _backbone_path(config.backbone.name),
                    "max_length": config.backbone.max_length or (language.MAX_LENGTH if prompts else MAX_LENGTH),
                }
            ),
        }
    )


def _absolute(path: str | None) -> str | None:
    return str(Path(path).expanduser().resolve()) if path else path


def _backbone_path(name: str) -> str:
    architecture, at, file = name.partition("@")
    if name.startswith("timm:"):
        return f"{architecture}{at}{_absolute(file)}" if at else name
    return str(_absolute(name)) if name != "tiny" and Path(name).expanduser().exists() else name


def _partition(config: Config, dataset: Dataset, stream: Stream, file: Path | None, *, centralised: bool) -> Partition:
    if file is not None:
        return load_partition(file, dataset.fingerprint)
    if centralised:
        return make_partition(dataset, stream, kind="iid", clients=1)
    values = config.partition
    if values.file:
        return load_partition(values.file, dataset.fingerprint)
    return make_partition(
        dataset,
        stream,
        kind=values.kind,
        clients=values.clients,
        beta=values.beta,
        alpha=values.alpha,
        min_samples=values.min_samples,
        seed=config.run.seed,
    )


def _learned(config: Config, dataset: Dataset, stream: Stream, options: Options) -> dict[str, Any]:
    """What clients train on and what is counted on test samples, by what the data set is measured by."""
    if dataset.modality == "language":
        return language.learned(config, dataset, stream)
    if dataset.train.targets is None:
        return {} if dataset.scores == ("accuracy",) else {"exam": Confusion(stream.order)}
    if not options.about.numbers:
        able = ", ".join(name for name, entry in METHODS.items() if entry.about.numbers)
        raise UserError(
            f"method {options.about.name!r} learns classes, and {dataset.name!r} holds numbers; these learn {able}"
        )
    return {"objective": squared_error, "exam": Numbers(ranks="spearman" in dataset.scores)}


def _check_modality(model: AdaptedModel | LanguageModel, dataset: Dataset) -> None:
    """`UserError` where the backbone reads images and the data are texts, or the other way round."""
    reads = "image" if isinstance(model.input, ImageInput) else "text"
    if reads != dataset.modality and isinstance(model, AdaptedModel):
        example = "a folder with a text model" if dataset.modality == "text" else "tiny, or a vision model"
        raise UserError(
            f"backbone {model.backbone.name!r} reads {reads}s, the data {dataset.name!r} are {dataset.modality}s; "
            f"choose another with --backbone ({example})"
        )
