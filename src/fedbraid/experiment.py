"""From a configuration to objects: data, stream, partition, model, method and server, tied together.

This is the only place where names become things; everything below it knows nothing of configurations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fedbraid import config as configs
from fedbraid import language, protected, robustness
from fedbraid import masking as masked
from fedbraid.algebra import Tensors
from fedbraid.checkpoint import Checkpoint
from fedbraid.config import Config
from fedbraid.config.shared import shared_terms
from fedbraid.core import ClientId, Event, ImageInput, Method, PromptInput, Runtime, Task
from fedbraid.data import (
    Dataset,
    Partition,
    Party,
    Stream,
    make_clients,
)
from fedbraid.engine import Start, run, schedule
from fedbraid.errors import UserError
from fedbraid.loading import MAX_LENGTH, Site, load_data, partitioned, settled, streamed, threads
from fedbraid.local.exams import Confusion, Numbers
from fedbraid.local.objectives import squared_error
from fedbraid.methods import METHODS, Options, Setting, make
from fedbraid.models import AdaptedModel, LanguageModel, load_backbone
from fedbraid.naming import file_name
from fedbraid.phases import Sampled, everyone
from fedbraid.plugins import is_reference
from fedbraid.privacy.account import EVERYTHING, Account
from fedbraid.privacy.guard import Guard, Payment, Tell, tell_nobody
from fedbraid.privacy.ledger import Budget
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.dry_run import check_method
from fedbraid.runtimes.exchange import Transport
from fedbraid.runtimes.gate import Gate
from fedbraid.runtimes.inprocess import InProcess
from fedbraid.runtimes.limits import Limits
from fedbraid.runtimes.server import Rules, Server


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
    guard: Guard | None = None
    notes: Sequence[str] = ()
    """What a reader must know before the run, beside what the data set says of itself."""
    terms: str = ""
    """The settings as the server sent them, at a site, whose `config` has some of its own; else those of `config`."""

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
        terms = self.terms or shared_terms(self.config.model_dump())
        masking = masked.masking(self.config, terms, self._names_of)
        return Work(self.method, self.model, Codec(), guard=self.guard, masking=masking)

    def guarded(
        self, folder: Path, *, alone: bool = False, deployed: bool = False, tell: Tell = tell_nobody
    ) -> Experiment:
        """The same, whose parties' messages are looked at before they leave; the report on them lies in the folder.

        The folder is one client's own where that is `alone`; a site that is `deployed` has a machine of its own too.
        """
        small = self.config.privacy.small_grams
        refuse = small == "refuse" or (small == "auto" and deployed)
        payment = self._payment(folder, alone=alone or deployed)
        hidden = self.config.secure.masked
        least = self.config.privacy.least_samples
        guard = Guard(folder, refuse=refuse, least=least, masked=hidden, payment=payment, tell=tell)
        return replace(self, guard=guard)

    def _payment(self, folder: Path, *, alone: bool) -> Payment | None:
        """How private work is paid; an account is one client's, for all that is ever computed of its samples."""
        values, protection = self.config.privacy, protected.drafted(self.config)
        if protection is None or values.epsilon is None:
            return None
        budget, terms = Budget(values.epsilon, values.delta), protected.terms(self.config)
        place = self.config.data.path or self.config.data.name
        own = folder / "accounts" / hashlib.sha256(place.encode()).hexdigest()[:16]

        def account(client: ClientId) -> Account:
            return Account(own if alone else folder / "clients" / file_name(client), budget, terms, self._names_of)

        return Payment(
            budget, protection, account, lambda round: protected.releases(self.method.phase(round), protection)
        )

    def _names_of(self, task: Task) -> Sequence[str]:
        """The classes of a task as the data name them; all samples at once where numbers are learned."""
        if self.dataset.train.targets is not None:
            return (EVERYTHING,)
        return [self.dataset.class_names[self.stream.order[place]] for place in task.classes]

    def here(self, kept: Tensors | None = None) -> InProcess:
        """All parties in this process; `kept` is what they kept for themselves before."""
        return InProcess(self.work, self.clients, self.evaluators, kept=kept)

    def server(self, transport: Transport, **options: Any) -> Server:
        """The runtime over a transport, by the rules of the configuration; the options are those of `Server`."""
        limits = _limits(self.config)
        gate = Gate(self.work, limits) if limits else None
        robust = robustness.thresholds(self.config)
        return Server(self.work, transport, rules=_rules(self.config), gate=gate, robust=robust, **options)

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


def build(config: Config, *, partition_file: Path | None = None, site: Site | None = None) -> Experiment:
    """The experiment of a configuration, whose open choices (`auto`) are settled in the result's own.

    `site` is the one of `partition.sites` whose samples lie here; at a server there is none.

    Sets torch's number of threads, since equal bits need an equal number. Raises `UserError` for data, weights or
    settings that do not fit together.
    """
    torch.set_num_threads(threads(config))
    language.check_settings(config)
    dataset = load_data(config, tested=site is None or site.tested)
    dataset = language.measurable(dataset) if dataset.modality == "language" else dataset
    stream = streamed(config, dataset)
    config = settled(config, dataset, stream)
    protected.check_settings(config)
    robustness.check_settings(config)
    options = configs.options(config)
    if dataset.modality not in options.about.modalities:
        known = " and ".join(options.about.modalities)
        raise UserError(
            f"method {options.about.name!r} knows {known} data, {dataset.name!r} is {dataset.modality} data"
        )
    trained = stream.joined() if options.about.centralised else stream
    partition = partitioned(config, dataset, trained, partition_file, site, centralised=options.about.centralised)
    model = load_model(config)
    _check_modality(model, dataset)
    wording = {"augment": config.data.augment, "template": language.template(config)}
    clients, evaluators = make_clients(dataset, trained, partition, model.input, **wording)
    if isinstance(model.input, PromptInput):
        dataset = language.noted(dataset, clients, evaluators, model.input)
    count = config.partition.clients_per_round
    if count and count > len(clients):
        raise UserError(f"partition.clients_per_round = {count}, but there are {len(clients)} clients")
    augment = config.data.augment != "none"
    setting = Setting(
        model.adapter,
        replace(configs.training(config, augment=augment), protection=protected.drafted(config)),
        config.training.rounds,
        cohort=Sampled(count) if count else everyone,
        test_offsets=stream.offsets if options.about.centralised else None,
        **configs.capacities(config, sorted(clients)),
        **_learned(config, dataset, stream, options),
    )
    method = make(options, setting)
    found = Experiment(config, dataset, stream, partition, method, model, clients, evaluators)
    if site is None:
        if is_reference(config.method["name"]) and config.gate.check:
            check_method(found.work, found.tasks)
        found = replace(found, notes=robustness.notes(config, len(clients)))
    if config.secure.masked and site is None:
        masked.check_settings(config, method, found.tasks, sorted(clients), len(evaluators))
        found = replace(found, notes=(*found.notes, masked.note(config, len(clients), _rules(config))))
    return found if config.privacy.epsilon is None else _private(found, options, setting, told=site is None)


def _private(experiment: Experiment, options: Options, setting: Setting, *, told: bool) -> Experiment:
    """The experiment with as much noise as its budget takes, and what is to be `told` of that before it begins."""
    clients = sorted(experiment.clients)
    about, tasks, seed = options.about, experiment.tasks, experiment.config.run.seed
    config = protected.settled(experiment.config, experiment.method, about, tasks, clients, seed)
    protection = protected.drafted(config)
    assert protection
    method = make(options, replace(setting, training=replace(setting.training, protection=protection)))
    notes = protected.notes(config, method, experiment.model, tasks, clients) if told else ()
    return replace(experiment, config=config, method=method, notes=(*experiment.notes, *notes))


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
