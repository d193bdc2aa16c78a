"""From a configuration to objects: data, stream, partition, model, method and runtime, tied together.

This is the only place where names become things; everything below it knows nothing of configurations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from fedbraid import config as configs
from fedbraid import plugins
from fedbraid.checkpoint import Checkpoint
from fedbraid.config import Config
from fedbraid.core import Event, ImageInput, Method
from fedbraid.data import (
    Dataset,
    Partition,
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
from fedbraid.methods import Setting, make
from fedbraid.models import AdaptedModel, Backbone, load_backbone
from fedbraid.phases import Sampled, everyone
from fedbraid.runtimes.inprocess import InProcess


@dataclass(frozen=True)
class Experiment:
    """Everything that a run needs. `stream` is what is reported by task, also where a method joins the tasks."""

    config: Config
    dataset: Dataset
    stream: Stream
    partition: Partition
    method: Method
    model: AdaptedModel
    runtime: InProcess

    @property
    def tasks(self):
        """The tasks that are trained one after another."""
        return (self.stream.joined() if configs.options(self.config).about.centralised else self.stream).tasks

    @property
    def rounds(self) -> int:
        return len(schedule(self.method, self.tasks, self.config.run.seed))

    def events(self, start: Checkpoint | None = None) -> Iterator[Event]:
        """The run, from its beginning or from a checkpoint; one event a finished round."""
        settings = self.config.run
        begin = Start(start.done, start.state) if start else None
        yield from run(
            self.method,
            self.model,
            self.tasks,
            self.runtime,
            seed=settings.seed,
            start=begin,
            evaluate=settings.evaluate,
        )


def build(config: Config, *, partition_file: Path | None = None, last: Checkpoint | None = None) -> Experiment:
    """The experiment of a configuration, whose open choices (`auto`) are settled in the result's own.

    `last` is where it will continue: runtime and clients remember what they knew then.

    Sets torch's number of threads, since equal bits need an equal number. Raises `UserError` for data, weights or
    settings that do not fit together.
    """
    torch.set_num_threads(_threads(config))
    dataset = _load_data(config)
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
    backbone = load_backbone(
        config.backbone.name, pooling=config.backbone.pooling, max_length=config.backbone.max_length
    )
    _check_modality(backbone, dataset)
    adapter = configs.adapter(config)
    clients, evaluators = make_clients(dataset, trained, partition, backbone.input, augment=config.data.augment)
    count = config.partition.clients_per_round
    if count and count > len(clients):
        raise UserError(f"partition.clients_per_round = {count}, but there are {len(clients)} clients")
    setting = Setting(
        adapter,
        configs.training(config, augment=config.data.augment != "none"),
        config.training.rounds,
        cohort=Sampled(count) if count else everyone,
        test_offsets=stream.offsets if options.about.centralised else None,
    )
    method = make(options, setting)
    precision = config.training.precision
    model = AdaptedModel(backbone, adapter, device=device(config.run.device), precision=precision)
    remembered = {"memory": last.memory, "kept": last.kept} if last else {}
    runtime = InProcess(method, model, clients, evaluators, **remembered)
    return Experiment(config, dataset, stream, partition, method, model, runtime)


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


def _threads(config: Config) -> int:
    """As many as torch takes; one for the embedded backbone, whose operations are too small to share."""
    return config.run.threads or (1 if config.backbone.name == "tiny" else torch.get_num_threads())


def _load_data(config: Config) -> Dataset:
    values = config.data
    return load(
        values.name,
        path=values.path,
        text_column=values.text_column,
        image_column=values.image_column,
        label_column=values.label_column,
        client_column=values.client_column,
        classes=values.classes,
        train_per_class=values.train_per_class,
        test_per_class=values.test_per_class,
        test_fraction=values.test_fraction,
        validation_fraction=values.validation_fraction,
        seed=config.run.seed,
    )


def _stream(config: Config, dataset: Dataset) -> Stream:
    values = config.stream
    tasks = values.tasks
    known = source_of(config.data.name)
    if tasks is None and values.sizes is None and known and len(dataset.class_names) == known.classes:
        tasks = known.tasks
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
    sizes = config.stream.sizes
    return config.model_copy(
        update={
            "data": config.data.model_copy(
                update={"name": own, "path": _absolute(config.data.path), "augment": augment}
            ),
            "stream": config.stream.model_copy(update={"tasks": None if sizes else len(stream.offsets) - 1}),
            "partition": config.partition.model_copy(update={"kind": kind, "file": _absolute(config.partition.file)}),
            "adapter": config.adapter.model_copy(update={"kind": configs.adapter(config).kind}),
            "run": config.run.model_copy(update={"threads": _threads(config)}),
            "backbone": config.backbone.model_copy(update={"name": _backbone_path(config.backbone.name)}),
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


def _check_modality(backbone: Backbone, dataset: Dataset) -> None:
    reads = "image" if isinstance(backbone.input, ImageInput) else "text"
    if reads != dataset.modality:
        example = "a folder with a text model" if dataset.modality == "text" else "tiny, or a vision model"
        raise UserError(
            f"backbone {backbone.name!r} reads {reads}s, the data {dataset.name!r} are {dataset.modality}s; "
            f"choose another with --backbone ({example})"
        )
