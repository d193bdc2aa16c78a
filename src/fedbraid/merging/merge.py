"""Merging low-rank updates in memory: tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fedbraid.errors import UserError
from fedbraid.low_rank import Factors, stacked
from fedbraid.merging.bounds import bounded
from fedbraid.merging.layer import Grams, Inputs, Updates, gathered, layers_of, normalised
from fedbraid.merging.rules import Options, rule_of


@dataclass(frozen=True)
class Merged:
    """The merged factors by layer, in fp64: `adapter`, and under `fedex` the `residual` that belongs beside it."""

    adapter: Mapping[str, Factors]
    residual: Mapping[str, Factors] = field(default_factory=dict[str, Factors])

    @property
    def updates(self) -> dict[str, Factors]:
        """The whole update of every layer: the adapter and the residual as one pair."""
        return {
            name: stacked([pair, self.residual[name]]) if name in self.residual else pair
            for name, pair in self.adapter.items()
        }


def merge(
    rule: str,
    updates: Sequence[Updates],
    *,
    weights: Sequence[float] | None = None,
    rank: int | None = None,
    grams: Sequence[Grams] | None = None,
    keep: float = 0.2,
    seed: int = 0,
    ridge: float = 1e-6,
) -> Merged:
    """The merge of several low-rank updates by a rule of `fedbraid.merging.RULES`, as thin factors.

    Each update maps layers to `(B, A)`, (d_out x r) and (r x d_in), whose product is what is added to the weight: fold
    a scale such as alpha / r into one of them. Ranks may differ, and a layer that an update lacks is not changed by it.
    `weights` are normalised, equal by default. `rank` bounds the result; without it nothing is lost, but under `ties`
    and `dare`, whose result has full rank and is cut to that of all updates together. `grams` are those of the layers'
    inputs, one mapping for each update, for `regmean` (d_in x d_in) and `lorm` (that, or its diagonal).

    Raises `UserError` for updates that do not fit together, and `RunError` for a Gram that cannot be solved.

    >>> import torch
    >>> one, none = torch.ones(1, 1), torch.zeros(1, 1)
    >>> left, right = merge("average", [{"fc": (one, one)}, {"fc": (none, none)}]).adapter["fc"]
    >>> round((left @ right).item(), 12)
    0.5
    """
    known, options = rule_of(rule), Options(keep, seed, ridge)
    if not updates:
        raise UserError("there are no updates to merge; give one at least")
    check_rank(rank)
    shares = normalised(weights, len(updates))
    layers = layers_of(updates, shares, _inputs(rule, updates, grams, shares))
    found = {layer.name: bounded(known.merge(layer, options), layer, rank) for layer in layers}
    residual = {name: layer.beside for name, layer in found.items() if layer.beside is not None}
    return Merged({name: layer.main for name, layer in found.items()}, residual)


def check_rank(rank: int | None) -> None:
    """`UserError` for a bound on the rank that is none."""
    if rank is not None and rank < 1:
        raise UserError(f"the rank is bounded by {rank}; a bound must be at least 1")


def _inputs(rule: str, updates: Sequence[Updates], grams: Sequence[Grams] | None, weights: Tensor) -> dict[str, Inputs]:
    form = rule_of(rule).grams
    if form == "none":
        return {}
    if grams is None:
        raise UserError(f"{rule} needs Grams of the layers' inputs; give grams=, one mapping for each update")
    if len(grams) != len(updates):
        raise UserError(f"there are Grams for {len(grams)} of {len(updates)} updates; give one mapping for each update")
    if form == "diagonal":
        grams = [{name: g if g.ndim == 1 else g.diagonal() for name, g in given.items()} for given in grams]
    for given in grams:
        for name, gram in given.items():
            if form == "full" and gram.ndim != 2:
                raise UserError(
                    f"regmean needs whole Grams, but that of {name!r} is {tuple(gram.shape)}; or choose lorm"
                )
    return gathered(updates, weights, grams)
