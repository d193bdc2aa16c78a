"""Grams of the inputs of every tuned layer, measured on data under each adapter in turn.

The adapter acts through hooks that add `B A x` to a layer's output, so that the base model is never changed and
GPT-2's transposed layers need no special case. A Gram is that of one token on average: weights alone say what an
adapter counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fedbraid.core import TextInput
from fedbraid.data import ClientData, Partition, load, make_clients, make_stream
from fedbraid.errors import UserError
from fedbraid.linalg import shrink
from fedbraid.low_rank import Factors
from fedbraid.merging.layer import Updates
from fedbraid.models import Backbone
from fedbraid.progress import track


@dataclass(frozen=True)
class Measure:
    """How Grams are measured: their form, at most how many samples they see, and where the model runs.

    `off_diagonal` is what the off-diagonals of full Grams are multiplied by; 0.9 is RegMean's default.
    """

    form: Literal["diagonal", "full"]
    samples: int = 1000
    off_diagonal: float = 0.9
    batch_size: int = 32
    seed: int = 0
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UserError(f"--samples is {self.samples}; Grams need at least one sample")
        if not 0 <= self.off_diagonal <= 1:
            raise UserError(f"--off-diagonal is {self.off_diagonal:g}; it must lie between 0 and 1")


def measured(
    updates: Sequence[Updates], backbone: Backbone, sources: Sequence[str], measure: Measure
) -> Iterator[dict[str, Tensor]]:
    """The Grams by layer under one adapter after the other, on its own data set or on one for all.

    Layers that read no vectors, such as embeddings, have none.
    """
    if len(sources) not in (1, len(updates)):
        raise UserError(
            f"there are {len(sources)} data sets for {len(updates)} adapters; give one for all, or one for each"
        )
    names = list(dict.fromkeys(name for update in updates for name in update))
    modules = {name: _module(backbone.module, name) for name in names}
    watched = {name: module for name, module in modules.items() if not isinstance(module, nn.Embedding)}
    backbone.module.to(torch.device(measure.device))
    data = {source: samples_of(source, backbone, measure) for source in dict.fromkeys(sources)}
    for number, update in enumerate(updates):
        source = sources[number % len(sources)]
        grams = _under(update, backbone, modules, watched, data[source], measure, f"Grams of adapter {number + 1}")
        yield {name: shrink(gram, measure.off_diagonal) for name, gram in grams.items()}


def samples_of(source: str, backbone: Backbone, measure: Measure) -> ClientData:
    """A seeded choice of the training samples of a data set, known by name or by path, as the backbone reads them."""
    dataset = load(source)
    count = len(dataset.train)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(measure.seed))
    chosen = Partition("own", dataset.fingerprint, count, {"data": tuple(sorted(order[: measure.samples].tolist()))})
    stream = make_stream(len(dataset.class_names), tasks=1)
    clients, _ = make_clients(dataset, stream, chosen, backbone.input)
    return clients["data"].train(stream.tasks[0])


def _under(
    update: Updates,
    backbone: Backbone,
    modules: Mapping[str, nn.Module],
    watched: Mapping[str, nn.Module],
    data: ClientData,
    measure: Measure,
    what: str,
) -> dict[str, Tensor]:
    """Mean Grams of a token's inputs while one adapter acts; none for a layer through which nothing goes."""
    device = torch.device(measure.device)
    tokens = _Tokens(backbone)
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(watched, 0)

    def see(name: str, x: Tensor) -> None:
        x = tokens.of(x).double()
        part = x.square().sum(0) if measure.form == "diagonal" else x.T @ x
        sums[name] = sums[name] + part if name in sums else part
        counts[name] += len(x)

    with ExitStack() as hooks, torch.no_grad():
        for name, module in watched.items():
            hooks.callback(module.register_forward_pre_hook(_seeing(see, name)).remove)
        for name, pair in update.items():
            hooks.callback(modules[name].register_forward_hook(_adding(pair, device)).remove)
        batches = -(-len(data) // measure.batch_size)
        for batch in track(data.batches(measure.batch_size, device=device), what, batches):
            tokens.begin(batch.inputs)
            backbone.pool(backbone.module, batch.inputs)
    return {name: gram.cpu() / counts[name] for name, gram in sums.items()}


class _Tokens:
    """One row a token, those of padding left out."""

    def __init__(self, backbone: Backbone) -> None:
        self._name = backbone.input.mask if isinstance(backbone.input, TextInput) else ""
        self._mask: Tensor | None = None

    def begin(self, inputs: Mapping[str, Tensor]) -> None:
        """The next batch."""
        self._mask = inputs.get(self._name)

    def of(self, x: Tensor) -> Tensor:
        if self._mask is not None and x.shape[:-1] == self._mask.shape:
            return x[self._mask.bool()]
        return x.reshape(-1, x.shape[-1])


def _seeing(see: Callable[[str, Tensor], None], name: str):
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        see(name, inputs[0])

    return hook


def _adding(pair: Factors, device: torch.device):
    left, right = (factor.to(device, torch.float32) for factor in pair)

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if isinstance(module, nn.Embedding):
            return output + right.T[inputs[0]] @ left.T
        return output + (inputs[0] @ right.T) @ left.T

    return hook


def _module(model: nn.Module, name: str) -> nn.Module:
    """The layer of that name; adapters of a model with a head name it from one level further up."""
    start = str(getattr(model, "base_model_prefix", "")) + "."
    for path in (name, name.removeprefix(start)):
        try:
            return model.get_submodule(path)
        except AttributeError:
            continue
    raise UserError(
        f"the base model has no layer {name!r}, so no Gram of its inputs can be measured; give the model that the "
        "adapters were trained on as --base (heads are not part of it)"
    )
