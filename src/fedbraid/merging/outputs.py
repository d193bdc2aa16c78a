"""Both forms of a result: written, then read again for the certificate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fedbraid.low_rank import Factors, stacked
from fedbraid.merging import base_models
from fedbraid.merging.bounds import bounded
from fedbraid.merging.certificate import Written
from fedbraid.merging.definitions import difference, rows_of_product
from fedbraid.merging.folders import AdapterFolder, LoraLayer, read_adapter
from fedbraid.merging.layer import Layer
from fedbraid.merging.rules import Options, Rule
from fedbraid.merging.writing import stored, write_adapter
from fedbraid.progress import track

RESIDUAL = "residual"
"""The folder of FedEx-LoRA's second adapter, inside that of the first."""


@dataclass(frozen=True)
class Plan:
    """All that decides what is written: rule, layers, where they come from, and what is stored as a whole."""

    rule: Rule
    options: Options
    rank: int | None
    layers: Sequence[Layer]
    adapters: Sequence[AdapterFolder]
    whole: Mapping[str, Tensor]
    base: str = ""


@dataclass(frozen=True)
class Output:
    """What was read again: each layer, and the tensors that are stored as a whole under their names in adapters."""

    written: Callable[[Layer], Written]
    whole: Mapping[str, Tensor]


def as_adapter(plan: Plan, folder: Path) -> Output:
    """An adapter folder; under `fedex` a second one inside it."""
    main: dict[str, LoraLayer] = {}
    beside: dict[str, LoraLayer] = {}
    cuts: dict[str, float] = {}
    for layer in track(plan.layers, "merging"):
        answer = plan.rule.merge(layer, plan.options)
        found = bounded(answer, layer, plan.rank)
        main[layer.name] = stored(layer.name, found.main, plan.adapters, keep_scale=answer.means)
        cuts[layer.name] = found.cut
        if found.beside is not None:
            beside[layer.name] = stored(layer.name, found.beside, plan.adapters)
    write_adapter(folder, main, plan.adapters, whole=plan.whole)
    if beside:
        write_adapter(folder / RESIDUAL, beside, plan.adapters)
    again = [read_adapter(path) for path in (folder, *([folder / RESIDUAL] if beside else []))]

    def written(layer: Layer) -> Written:
        pair = stacked([adapter.layers[layer.name].pair for adapter in again])
        return Written(rows_of_product(pair), pair[1].shape[0], cuts[layer.name])

    return Output(written, again[0].whole)


def as_model(plan: Plan, folder: Path) -> Output:
    """The whole base model with the update added to its weights; dense updates stay whole where no rank is given."""
    shapes = {layer.name: layer.shape for layer in plan.layers}
    model = base_models.load_base(plan.base, plan.adapters, shapes)
    kind = type(model)
    base_models.put_whole(model, plan.whole)
    before = {name: base_models.weight_rows(model, name, shape).clone() for name, shape in shapes.items()}
    found: dict[str, tuple[int | None, float]] = {}
    for layer in track(plan.layers, "merging"):
        update, rank, cut = _update(plan, layer)
        base_models.add_to(model, layer.name, update)
        found[layer.name] = (rank, cut)
    base_models.save_model(model, plan.base, folder)
    del model  # before another is loaded: both may be large
    again = base_models.reload_model(kind, plan.base, folder)
    state = again.state_dict()

    def written(layer: Layer) -> Written:
        after = base_models.weight_rows(again, layer.name, layer.shape)
        rounding = torch.finfo(torch.float32).eps * after.double().norm().item()
        return Written(difference(_rows(after), _rows(before[layer.name])), *found[layer.name], rounding)

    return Output(written, {name: state[base_models.place_of(name)] for name in plan.whole})


def _update(plan: Plan, layer: Layer) -> tuple[Factors | Tensor, int | None, float]:
    """(what is added to the weight, its rank where it has one, the norm of what was cut)."""
    answer = plan.rule.merge(layer, plan.options)
    if plan.rank is None and isinstance(answer.main, Tensor):
        return answer.main, None, 0.0
    bound = bounded(answer, layer, plan.rank)
    pair = bound.main if bound.beside is None else stacked([bound.main, bound.beside])
    return pair, pair[1].shape[0], bound.cut


def _rows(matrix: Tensor) -> Callable[[slice], Tensor]:
    return lambda some: matrix[some].double()
