"""From a checked configuration to the objects that methods are built for."""

from __future__ import annotations

from typing import Any, cast

from pydantic import TypeAdapter

from fedbraid.config.checking import options_of
from fedbraid.config.sections import Config
from fedbraid.local.training import Training
from fedbraid.methods import Options
from fedbraid.models.adapters import Adapter


def options(config: Config) -> Options:
    """The method's options as its own dataclass."""
    values = dict(config.method)
    return TypeAdapter(options_of(values.pop("name"), "configuration")).validate_python(values)


def adapter(config: Config) -> Adapter:
    """The adapter that the configuration asks for."""
    values = config.adapter
    method = options(config)
    kind = cast(Any, method.about.adapters[0] if values.kind == "auto" else values.kind)
    layers = values.layers if isinstance(values.layers, str) else tuple(values.layers)
    return method.adapter(Adapter(kind, values.rank, values.alpha, values.dropout, layers, values.blocks))


def training(config: Config, *, augment: bool) -> Training:
    """How clients train."""
    values = config.training
    rates = {
        "head": values.lr_head,
        "lora_A": values.lr_A,
        "lora_B": values.lr_B,
        "base": values.lr_base,
        "prompt": values.lr_prompt,
    }
    return Training(
        epochs=values.epochs,
        batch_size=values.batch_size,
        lr=values.lr,
        rates={kind: rate for kind, rate in rates.items() if rate is not None},
        optimizer=values.optimizer,
        weight_decay=values.weight_decay,
        momentum=values.momentum,
        augment=augment,
    )
