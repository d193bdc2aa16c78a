"""The rules by which the updates of one layer become one.

    average   sum_i p_i B_i A_i                                    exact, as factors side by side
    fedex     the same: means of the factors, and the rest beside them as a second update
    factors   (sum_i p_i B_i)(sum_i p_i A_i)                       what averaging the factors gives; not the mean
    ties      trim, elect signs, average what agrees               entries of the updates, layer by layer
    dare      sum_i p_i m_i * (B_i A_i) / keep                     m_i drops entries at random
    regmean   (sum_i p_i B_i A_i G_i + lam mean)(sum_i p_i G_i + lam I)^-1,  G_i the Gram of the layer's inputs
    lorm      the same with diagonal Grams

Factors of different ranks are padded with zeros where their means are taken. Citations stand in `RULES`.
Differs from the public code: TIES trims within each layer, as peft does, and does not rescale its result.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from fedbraid.algebra import total
from fedbraid.errors import RunError, UserError
from fedbraid.low_rank import Factors, residual, stacked
from fedbraid.merges import Ties
from fedbraid.merges.lorm import right_factors
from fedbraid.merging.layer import Layer


@dataclass(frozen=True)
class Options:
    """What rules can be told; each reads what concerns it."""

    keep: float = 0.2
    """The share of entries that TIES and DARE keep."""
    seed: int = 0
    """Of DARE's draws."""
    ridge: float = 1e-6
    """The ridge to the mean of RegMean and LoRM, relative to the mean diagonal entry of the Gram."""

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise UserError(f"keep is {self.keep:g}; the share of entries to keep lies above 0 and is at most 1")
        if not 0 <= self.ridge < math.inf:
            raise UserError(f"ridge is {self.ridge:g}; it must be finite and not negative")


@dataclass(frozen=True)
class Answer:
    """A layer's merged update: `main`, thin or dense, and what stands beside it.

    `means` says that the factors of `main` are the adapters' own on average, to be kept as they are.
    """

    main: Factors | Tensor
    beside: Factors | None = None
    means: bool = False


@dataclass(frozen=True)
class Rule:
    """A rule, what it is in a line, where it comes from, and the form of the Grams that it needs."""

    merge: Callable[[Layer, Options], Answer]
    about: str
    citation: str
    grams: Literal["none", "diagonal", "full"] = "none"


def mean_factors(layer: Layer) -> Factors:
    """(sum p_i B_i, sum p_i A_i) in fp64, padded to the largest rank."""
    lefts, rights = _padded(layer)
    left = torch.stack([left * p for left, p in zip(lefts, layer.weights, strict=True)]).sum(0)
    return left, torch.stack([right * p for right, p in zip(rights, layer.weights, strict=True)]).sum(0)


def keep_mask(layer: str, adapter: int, shape: tuple[int, int], options: Options) -> Tensor:
    """Which entries of one adapter's update DARE keeps: a function of seed, layer and the adapter's place."""
    text = repr((options.seed, "dare", layer, adapter))
    draws = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)
    return torch.rand(shape, generator=draws, dtype=torch.float64) < options.keep


def _average(layer: Layer, _options: Options) -> Answer:
    return Answer(stacked(layer.pairs, list(layer.weights)))


def _fedex(layer: Layer, _options: Options) -> Answer:
    return Answer(mean_factors(layer), residual(*_padded(layer), layer.weights), means=True)


def _factors(layer: Layer, _options: Options) -> Answer:
    return Answer(mean_factors(layer), means=True)


def _ties(layer: Layer, options: Options) -> Answer:
    rule = Ties(options.keep)
    changes = (left.double() @ right.double() for left, right in layer.pairs)
    lifted = (
        rule.lift({"count": weight, "update/0": change}) for change, weight in zip(changes, layer.weights, strict=True)
    )
    return Answer(rule.solve(total(lifted))["update/0"])


def _dare(layer: Layer, options: Options) -> Answer:
    merged = torch.zeros(layer.shape, dtype=torch.float64)
    for number, ((left, right), weight) in enumerate(zip(layer.pairs, layer.weights, strict=True)):
        kept = keep_mask(layer.name, number, layer.shape, options)
        merged += kept * (left.double() @ right.double()) * (weight / options.keep)
    return Answer(merged)


def _closed_form(layer: Layer, options: Options) -> Answer:
    """A layer without Grams is averaged, as are directions that no input has."""
    if layer.inputs is None:
        return _average(layer, options)
    rights = [right for _, right in layer.pairs]
    given = layer.inputs
    try:
        solved = right_factors(rights, given.products, given.gram, ridge=options.ridge, weights=layer.weights)
    except RunError as error:
        raise RunError(f"cannot merge layer {layer.name!r}: {error}") from error
    return Answer(stacked([(left, right) for (left, _), right in zip(layer.pairs, solved, strict=True)]))


def _padded(layer: Layer) -> tuple[list[Tensor], list[Tensor]]:
    """(lefts, rights) in fp64, all of the largest rank."""
    rank = max(right.shape[0] for _, right in layer.pairs)
    lefts = [pad(left.double(), (0, rank - left.shape[1])) for left, _ in layer.pairs]
    return lefts, [pad(right.double(), (0, 0, 0, rank - right.shape[0])) for _, right in layer.pairs]


RULES: Mapping[str, Rule] = {
    "average": Rule(_average, "the mean of the updates, exact", "McMahan et al., AISTATS 2017, on updates"),
    "fedex": Rule(_fedex, "means of the factors, and the rest as a second adapter", "Singhal et al., ACL 2025"),
    "factors": Rule(_factors, "means of the factors alone, to compare with", "Zhang et al., ICASSP 2024 (FedIT)"),
    "ties": Rule(_ties, "large entries whose signs agree", "Yadav et al., NeurIPS 2023"),
    "dare": Rule(_dare, "the mean of randomly thinned updates", "Yu et al., ICML 2024"),
    "regmean": Rule(_closed_form, "answers all inputs, full Grams", "Jin et al., ICLR 2023", "full"),
    "lorm": Rule(_closed_form, "answers all inputs, diagonal Grams", "Salami et al., ICLR 2025", "diagonal"),
}


def rule_of(name: str) -> Rule:
    """The rule of that name; `UserError` where there is none."""
    if name not in RULES:
        raise UserError(f"there is no rule {name!r}; known are {', '.join(RULES)}")
    return RULES[name]
