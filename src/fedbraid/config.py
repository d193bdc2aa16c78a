"""The configuration of a run: TOML in, validated settings out, every error with its key.

A run's configuration is complete: `Config()` is the default run, a file or `--set key=value` changes parts of it, and
the `config.toml` of a run folder holds every value, so that it can be run again.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fedbraid.errors import UserError
from fedbraid.local.training import Training
from fedbraid.methods import METHODS
from fedbraid.models.adapters import Adapter

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


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

    kind: Literal["auto", "lora", "full", "none"] = "auto"
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


def parse(values: Mapping[str, Any], where: str = "configuration") -> Config:
    """A configuration from nested values; `UserError` names the key, the fault, and the nearest key there is."""
    values = {**values, "method": _method(values.get("method", "lorm"), where)}
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(_fault(fault, where) for fault in error.errors())) from None


def read(source: str, overrides: Iterable[str] = ()) -> Config:
    """A configuration from a file or the name of a recipe, changed by `key=value` texts."""
    values = _load(source)
    for override in overrides:
        _set(values, override)
    return parse(values, source or "command line")


def recipes() -> list[str]:
    """The names of the recipes in the package."""
    root = Path(str(files("fedbraid") / "configs"))
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.toml"))


def to_toml(config: Config) -> str:
    """The configuration as TOML, every value included; what is not set has no line."""
    import tomli_w

    return tomli_w.dumps(_without_none(config.model_dump()))


def options(config: Config):
    """The method's options as its own dataclass."""
    values = dict(config.method)
    return TypeAdapter(METHODS[values.pop("name")]).validate_python(values)


def adapter(config: Config) -> Adapter:
    """The adapter that the configuration asks for."""
    values = config.adapter
    kind = cast(Any, options(config).about.adapters[0] if values.kind == "auto" else values.kind)
    layers = values.layers if isinstance(values.layers, str) else tuple(values.layers)
    return Adapter(kind, values.rank, values.alpha, values.dropout, layers, values.blocks)


def training(config: Config, *, augment: bool) -> Training:
    """How clients train."""
    values = config.training
    rates = {"head": values.lr_head, "lora_A": values.lr_A, "lora_B": values.lr_B, "base": values.lr_base}
    return Training(
        epochs=values.epochs,
        batch_size=values.batch_size,
        lr=values.lr,
        rates={kind: rate for kind, rate in rates.items() if rate is not None},
        optimizer=values.optimizer,
        weight_decay=values.weight_decay,
        momentum=values.momentum,
        augment=augment,
        precision=values.precision,
    )


def _load(source: str) -> dict[str, Any]:
    if not source:
        return {}
    path = Path(source)
    if not path.is_file():
        recipe = Path(str(files("fedbraid") / "configs")) / f"{source}.toml"
        if not recipe.is_file():
            raise UserError(
                f"there is no configuration file {source!r} and no recipe of that name{_near(source, recipes())}; "
                f"recipes: {', '.join(recipes())}"
            )
        path = recipe
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no valid TOML: {error}") from error


def _set(values: dict[str, Any], override: str) -> None:
    """Applies one `section.key=value`; the value is TOML, or text where it is not."""
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--set {override!r} is no key=value; write for example --set training.lr=0.01")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, name = key.strip().split(".")
    table = values
    for section in sections:
        inner = table.get(section, {})
        table[section] = {"name": inner} if isinstance(inner, str) else dict(inner)
        table = table[section]
    table[name] = value


def _method(value: object, where: str) -> dict[str, Any]:
    """The method's name and all of its options, validated by the method's own dataclass."""
    values = {"name": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else {}
    name = values.pop("name", "lorm")
    if name not in METHODS:
        raise UserError(f"{where}: unknown method {name!r}{_near(name, METHODS)}; methods: {', '.join(METHODS)}")
    fields = [field.name for field in dataclasses.fields(METHODS[name])]  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            known = f"; it has {', '.join(fields)}" if fields else "; it has none"
            raise UserError(f"{where}: method {name!r} has no option {key!r}{_near(key, fields)}{known}")
    adapter_of = TypeAdapter(METHODS[name])
    try:
        checked = adapter_of.validate_python(values)
    except ValidationError as error:
        raise UserError("\n".join(_fault(fault, f"{where}: method") for fault in error.errors())) from None
    return {"name": name} | {key: getattr(checked, key) for key in fields}


def _fault(fault: Mapping[str, Any], where: str) -> str:
    """One validation error in words."""
    place = [str(part) for part in fault["loc"]]
    key = ".".join(place)
    if fault["type"] == "extra_forbidden":
        section: Any = Config
        for part in place[:-1]:
            section = section.model_fields[part].annotation
        return f"{where}: unknown key {key!r}{_near(place[-1], section.model_fields)}"
    return f"{where}: {key} = {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
