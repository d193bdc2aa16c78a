"""What was written, held against what the rule is by definition: the files are read again and compared in fp64.

Errors are relative, |written - defined| / |defined| in Frobenius norm, of whole updates and never of factors. Beside
them stands how far from the mean of the updates three things are: what was written, what peft's linear combination of
the adapters gives, and what averaging their factors gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fedbraid.errors import RunError
from fedbraid.low_rank import Factors, norm, stacked
from fedbraid.merging.definitions import Rows, definition, linear_of_peft, mean_of_updates, norms
from fedbraid.merging.folders import AdapterFolder
from fedbraid.merging.layer import Layer
from fedbraid.merging.rules import Options, mean_factors

TOLERANCE = 1e-4
"""The largest error beyond what a bound on the rank has cut; fp32 files alone are off by 1e-7."""
CANCELLED = 1e-12
"""A norm of so little of the updates behind it is rounding in fp64: they cancel, and there is nothing to be relative
to."""


@dataclass(frozen=True)
class LayerFact:
    """One layer of a certificate.

    `tuned_by` adapters tune it; `rank` is that of all that was written, None where a dense update was. `error` is
    against the rule's definition, of which `cut` is due to the bound on the rank. The last three are distances from the
    mean of the updates; `peft_linear` is None where peft refuses, for ranks that differ.
    """

    layer: str
    shape: tuple[int, int]
    tuned_by: int
    rank: int | None
    norm: float
    error: float
    cut: float
    from_mean: float
    peft_linear: float | None
    factor_mean: float


@dataclass(frozen=True)
class Certificate:
    """What was merged, how far it is from what was meant, layer by layer, and its size.

    `notes` are what the user should know of the adapters. `error`, `cut` and the distances from the mean are those of
    all layers as one vector, `worst_error` is that of the worst layer; `whole_error` is that of tensors that were
    trained whole, None where there are none.
    """

    rule: str
    format: str
    adapters: tuple[str, ...]
    weights: tuple[float, ...]
    rank: int | None
    error: float
    cut: float
    worst_error: float
    worst_layer: str
    whole_error: float | None
    from_mean: float
    peft_linear: float | None
    factor_mean: float
    bytes: int
    notes: tuple[str, ...]
    layers: tuple[LayerFact, ...]

    def record(self) -> dict[str, Any]:
        """All of it as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Written:
    """A layer as it was read again: its rows, its rank, what the bound has cut (a norm), and rounding that is no fault.

    `rounding` is a norm: a weight that is stored as fp32 holds an update only to the last bit of the weight.
    """

    rows: Rows
    rank: int | None
    cut: float
    rounding: float = 0.0


def layer_fact(
    rule: str, layer: Layer, options: Options, adapters: Sequence[AdapterFolder], written: Written
) -> tuple[LayerFact, dict[str, float]]:
    """The fact of a layer, and the norms behind its ratios; `RunError` where the files do not hold what was meant."""
    scales = [a.layers[layer.name].scale if layer.name in a.layers else 1.0 for a in adapters]
    linear = linear_of_peft(layer, scales) if _of_one_rank(adapters) else None
    parts = sum(weight * norm(pair) for weight, pair in zip(layer.weights.tolist(), layer.pairs, strict=True))
    sizes = _sizes(rule, layer, options, written)
    sizes |= {name: 0.0 for name in ("norm", "mean") if sizes[name] <= CANCELLED * parts}
    sizes |= {
        "cut": written.cut,
        "factor_mean": _from_mean(layer, mean_factors(layer)),
        "peft_linear": _from_mean(layer, linear) if linear else 0.0,
    }
    rounding = written.rounding + torch.finfo(torch.float32).eps * parts
    if sizes["error"] > math.hypot(written.cut, TOLERANCE * sizes["norm"]) * (1 + TOLERANCE) + rounding:
        raise RunError(
            f"layer {layer.name!r}: what was written is off by {ratio(sizes['error'], sizes['norm']):.3g} from what "
            f"{rule} is by definition; nothing was kept. A larger ridge helps where inputs are few"
        )
    fact = LayerFact(
        layer=layer.name,
        shape=layer.shape,
        tuned_by=layer.tuned_by,
        rank=written.rank,
        norm=sizes["norm"],
        error=ratio(sizes["error"], sizes["norm"]),
        cut=ratio(written.cut, sizes["norm"]),
        from_mean=ratio(sizes["from_mean"], sizes["mean"]),
        peft_linear=ratio(sizes["peft_linear"], sizes["mean"]) if linear else None,
        factor_mean=ratio(sizes["factor_mean"], sizes["mean"]),
    )
    return fact, sizes


def _sizes(rule: str, layer: Layer, options: Options, written: Written) -> dict[str, float]:
    """The norms of what is defined, of the mean, and of what was written less either of them."""
    target, mean = definition(rule, layer, options), mean_of_updates(layer)
    averages = rule in ("average", "fedex")

    def matrices(some: slice) -> tuple[torch.Tensor, ...]:
        found, defined = written.rows(some), target(some)
        middle = defined if averages else mean(some)
        return defined, middle, found - defined, found - middle

    return dict(zip(("norm", "mean", "error", "from_mean"), norms(layer.shape, matrices), strict=True))


def _from_mean(layer: Layer, factors: Factors) -> float:
    """The norm of a product less the mean of the updates, by thin factors."""
    return norm(stacked([factors, *layer.pairs], [1.0, *(-layer.weights)]))


def certify(
    layers: Sequence[Layer],
    fact_of: Callable[[Layer], tuple[LayerFact, dict[str, float]]],
    *,
    rule: str,
    format: str,
    adapters: Sequence[AdapterFolder],
    rank: int | None,
    whole_error: float | None,
    size: int,
    notes: Sequence[str] = (),
) -> Certificate:
    """The certificate of all layers."""
    facts, sizes = zip(*(fact_of(layer) for layer in layers), strict=True)
    total = {name: math.sqrt(sum(row[name] ** 2 for row in sizes)) for name in sizes[0]}
    worst = max(facts, key=lambda fact: fact.error)
    refused = any(fact.peft_linear is None for fact in facts)
    return Certificate(
        rule=rule,
        format=format,
        adapters=tuple(str(adapter.path) for adapter in adapters),
        weights=tuple(layers[0].weights.tolist()),
        rank=rank,
        error=ratio(total["error"], total["norm"]),
        cut=ratio(total["cut"], total["norm"]),
        worst_error=worst.error,
        worst_layer=worst.layer,
        whole_error=whole_error,
        from_mean=ratio(total["from_mean"], total["mean"]),
        peft_linear=None if refused else ratio(total["peft_linear"], total["mean"]),
        factor_mean=ratio(total["factor_mean"], total["mean"]),
        bytes=size,
        notes=tuple(notes),
        layers=facts,
    )


def whole_error(
    written: Mapping[str, torch.Tensor], adapters: Sequence[AdapterFolder], weights: torch.Tensor
) -> float | None:
    """The largest relative error of the tensors that were trained whole, against their mean taken one by one.

    `RunError` where the files do not hold that mean.
    """
    errors: dict[str, float] = {}
    for name, tensor in written.items():
        mean, parts = torch.zeros(1, dtype=torch.float64), 0.0
        for adapter, weight in zip(adapters, weights.tolist(), strict=True):
            part = adapter.whole[name].double() * weight
            mean, parts = mean + part, parts + part.norm().item()
        size = mean.norm().item()
        errors[name] = ratio((tensor.double() - mean).norm().item(), size if size > CANCELLED * parts else 0.0)
    worst = max(errors, key=lambda name: errors[name], default=None)
    if worst is not None and errors[worst] > TOLERANCE:
        raise RunError(f"{worst!r}: what was written is off by {errors[worst]:.3g} from the mean; nothing was kept")
    return None if worst is None else errors[worst]


def _of_one_rank(adapters: Sequence[AdapterFolder]) -> bool:
    """Whether peft takes the adapters for its linear combination, which asks for one largest rank."""
    return len({max(a.config["r"], *(a.config.get("rank_pattern") or {}).values(), 0) for a in adapters}) == 1


def ratio(error: float, norm: float) -> float:
    """`error / norm`; the error itself where the norm is zero: updates that cancel leave nothing to compare with."""
    return error / norm if norm else error
