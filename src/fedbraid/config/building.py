"""From a checked configuration to the objects that methods are built for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

from pydantic import TypeAdapter

from fedbraid.config.checking import options_of
from fedbraid.config.sections import Config
from fedbraid.core import ClientId
from fedbraid.errors import UserError
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
    return method.adapter(
        Adapter(kind, values.rank, values.alpha, values.dropout, layers, values.blocks, scaled=values.scaled)
    )


def capacities(config: Config, clients: Sequence[ClientId]) -> dict[str, dict[ClientId, Any]]:
    """`ranks` and `alphas` by client, of those that do not train the whole adapter or have an alpha of their own."""
    values = config.adapter
    if (values.ranks or values.alphas) and adapter(config).kind != "lora":
        raise UserError("adapter.ranks and adapter.alphas are of low-rank adapters; set adapter.kind = 'lora'")
    for rank in values.ranks or ():
        if not 1 <= rank <= values.rank:
            raise UserError(f"adapter.ranks holds {rank}: ranks lie between 1 and adapter.rank = {values.rank}")
    for alpha in values.alphas or ():
        if not 0 < alpha < math.inf:
            raise UserError(f"adapter.alphas holds {alpha:g}: an alpha must be above 0")
    ranks = {client: rank for client, rank in _in_turn(clients, values.ranks) if rank < values.rank}
    return {"ranks": ranks, "alphas": dict(_in_turn(clients, values.alphas))}


def _in_turn(clients: Sequence[ClientId], values: Sequence[Any] | None) -> Iterator[tuple[ClientId, Any]]:
    return zip(clients, itertools.cycle(values or ()), strict=False)


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
