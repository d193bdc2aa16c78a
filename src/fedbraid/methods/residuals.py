"""What exact aggregation has merged into the frozen weights, kept beside them.

Shared with the clients:
    merged/<task>.<round>/B/<layer>, merged/<task>.<round>/A/<layer>    the residual of one round, as factors
    dense/<layer>                                                      all earlier ones, where a matrix is smaller
On the server:
    cut_B/<layer>, cut_A/<layer>                                       what a bound on the rank has cut off so far

A download is what is new: the factors of the last round. As soon as the factors of a layer are larger than its matrix
they become one, which is sent once; so the traffic is at most twice that of the factors, and memory is bounded.
The rank of what is sent may be bounded: what is cut is carried to the next round (error feedback; Seide et al., 1-Bit
Stochastic Gradient Descent, Interspeech 2014), so nothing is lost for good.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedbraid.algebra import Tensors, select, without
from fedbraid.core import Round, State
from fedbraid.low_rank import Factors, split, stacked
from fedbraid.merges.fedex import RESIDUAL
from fedbraid.methods.base import among, model_values

MERGED = "merged"
DENSE = "dense"
NEW = (RESIDUAL, f"{RESIDUAL}_A", f"{RESIDUAL}_B")


def weights(shared: Tensors) -> dict[str, Tensor]:
    """What the model loads: all that is tuned, and all that was merged as one term a layer."""
    pending = _pending(shared)
    beside = {f"delta_B/{layer}": torch.cat([left for left, _ in pairs], 1) for layer, pairs in pending.items()}
    beside |= {f"delta_A/{layer}": torch.cat([right for _, right in pairs]) for layer, pairs in pending.items()}
    return {**model_values(shared), **among(shared, (DENSE,)), **beside}


def absorb(state: State, round: Round, *, scale: float, bound: int = 0) -> State:
    """The state with this round's residual, of updates `scale B A`, among what is merged; `bound` 0 bounds nothing."""
    shared, server = without(state.shared, *NEW), dict(state.server)
    for layer, matrix in select(state.shared, RESIDUAL).items():
        shared[f"{DENSE}/{layer}"] = (_dense(shared, layer) + scale * matrix.double()).float()
    lefts, rights = select(state.shared, f"{RESIDUAL}_B"), select(state.shared, f"{RESIDUAL}_A")
    for layer, left in lefts.items():
        factors = (scale * left.double(), rights[layer].double())
        if bound:
            factors = _bounded(factors, layer, server, bound)
        if factors[0].shape[1]:
            shared |= _named(factors, layer, round)
    return State(_compact(shared), server)


def _bounded(factors: Factors, layer: str, server: dict[str, Tensor], bound: int) -> Factors:
    """The best part of the rank that is allowed, of this residual and of what was cut before."""
    if f"cut_B/{layer}" in server:
        factors = stacked([factors, (server[f"cut_B/{layer}"], server[f"cut_A/{layer}"])])
    best, (server[f"cut_B/{layer}"], server[f"cut_A/{layer}"]) = split(factors, bound)
    return best


def _named(factors: Factors, layer: str, round: Round) -> dict[str, Tensor]:
    start = f"{MERGED}/{round.task.index}.{round.index}"
    return {f"{start}/B/{layer}": factors[0].float(), f"{start}/A/{layer}": factors[1].float()}


def _pending(shared: Tensors) -> dict[str, list[Factors]]:
    """The factors of every layer, in the order of the rounds that they come from."""
    names = sorted({key.split("/")[1] for key in shared if key.startswith(f"{MERGED}/")}, key=_place)
    found: dict[str, list[Factors]] = {}
    for name in names:
        for layer, left in select(shared, f"{MERGED}/{name}/B").items():
            found.setdefault(layer, []).append((left, shared[f"{MERGED}/{name}/A/{layer}"]))
    return found


def _place(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.split("."))


def _compact(shared: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same, with a matrix in the place of factors that are together larger than it."""
    for layer, pairs in _pending(shared).items():
        size = sum(left.numel() + right.numel() for left, right in pairs)
        if size < pairs[0][0].shape[0] * pairs[0][1].shape[1]:
            continue
        left, right = stacked(pairs)
        ending = (f"/B/{layer}", f"/A/{layer}")
        shared = {k: v for k, v in shared.items() if not (k.startswith(f"{MERGED}/") and k.endswith(ending))}
        shared[f"{DENSE}/{layer}"] = (_dense(shared, layer) + left @ right).float()
    return shared


def _dense(shared: Tensors, layer: str) -> Tensor | float:
    held = shared.get(f"{DENSE}/{layer}")
    return 0.0 if held is None else held.double()
