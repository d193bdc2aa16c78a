"""From a configuration to data: what is learned, in which order, by whom; and every open choice of it settled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fedbraid import config as configs
from fedbraid import language, plugins
from fedbraid.config import Config
from fedbraid.core import ClientId
from fedbraid.data import (
    Dataset,
    Here,
    Partition,
    Stream,
    load,
    load_partition,
    make_partition,
    make_stream,
    source_of,
)
from fedbraid.data.partition import check_clients
from fedbraid.errors import UserError

MAX_LENGTH = 128
"""The longest text in tokens, where backbone.max_length says nothing; prompts with answers are longer."""


@dataclass(frozen=True)
class Site:
    """The client whose samples lie here, and whether its test samples are counted here too."""

    client: ClientId
    tested: bool = False


def threads(config: Config) -> int:
    """As many as torch takes; one for the embedded backbone, whose operations are too small to share."""
    return config.run.threads or (1 if config.backbone.name == "tiny" else torch.get_num_threads())


def load_data(config: Config, *, tested: bool = True) -> Dataset:
    """The data of a configuration; for one place among several, with some or none of each class."""
    values = config.data
    here = Here(_names(values.classes), tested) if config.partition.kind == "sites" else None
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
        here=here,
    )


def _names(classes: int | Sequence[str | int] | None) -> tuple[str, ...]:
    return () if classes is None or isinstance(classes, int) else tuple(map(str, classes))


def streamed(config: Config, dataset: Dataset) -> Stream:
    """The order in which the classes of the data arrive."""
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


def settled(config: Config, dataset: Dataset, stream: Stream) -> Config:
    """The configuration with every `auto` decided and local paths made absolute, so that it can be run anywhere."""
    known = source_of(config.data.name)
    augment = config.data.augment if config.data.augment != "auto" else known.augment if known else "none"
    kind = config.partition.kind
    if kind == "auto":
        kind = "natural" if dataset.train.clients else "dirichlet"
    name = config.data.name
    own = plugins.absolute(name) if plugins.is_reference(name) else name if known else _absolute(name)
    sizes, prompts = config.stream.sizes, dataset.modality == "language"
    classes = list(dataset.class_names) if kind == "sites" and config.data.classes else config.data.classes
    return config.model_copy(
        update={
            "data": config.data.model_copy(
                update={"name": own, "path": _absolute(config.data.path), "augment": augment, "classes": classes}
            ),
            "stream": config.stream.model_copy(update={"tasks": None if sizes else len(stream.offsets) - 1}),
            "partition": config.partition.model_copy(update={"kind": kind, "file": _absolute(config.partition.file)}),
            "adapter": config.adapter.model_copy(update={"kind": configs.adapter(config).kind}),
            "run": config.run.model_copy(update={"threads": threads(config)}),
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


def partitioned(
    config: Config, dataset: Dataset, stream: Stream, file: Path | None, site: Site | None, *, centralised: bool
) -> Partition:
    """Who holds which training samples; the partition of `file` where it is given."""
    if config.partition.kind == "sites":
        return _of_sites(config, dataset, site, centralised=centralised)
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


def _of_sites(config: Config, dataset: Dataset, site: Site | None, *, centralised: bool) -> Partition:
    """All training samples are those of the site where this is; the others have theirs elsewhere."""
    names = config.partition.sites or []
    if centralised:
        name = configs.options(config).about.name
        raise UserError(f"method {name!r} pools all samples, which sites keep to themselves")
    if not names or (site and site.client not in names):
        who = f"site {site.client} is none of them" if site and names else "name them in partition.sites"
        raise UserError(f"partition.kind = 'sites' is for the sites of a federation ({', '.join(names)}): {who}")
    check_clients(names, "partition.sites")
    everything = tuple(range(len(dataset.train)))
    shares = {name: everything if site and name == site.client else () for name in names}
    return Partition("sites", dataset.fingerprint, len(dataset.train), shares)
