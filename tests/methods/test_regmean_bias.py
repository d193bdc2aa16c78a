"""RegMean under full fine-tuning: a layer's bias averaged, or solved with its weight by the Gram of [x, 1]."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fedbraid.algebra import Tensors, select
from fedbraid.errors import UserError
from fedbraid.methods.regmean import _require_plain
from fedbraid.models import Adapter, load_backbone

World = Any
LAYERS = ("layers.0.attention.q_proj", "layers.1.mlp.fc2")
OFF, RIDGE = 0.8, 1e-6


def reads(here: World, values: Tensors, task: Any, client: str) -> dict[str, Tensor]:
    """[x, 1] of the layers, (tokens, d_in + 1), on a plain backbone of these weights."""
    backbone, seen = load_backbone("tiny"), {}
    backbone.module.load_state_dict(dict(select(values, "base")), strict=False)
    for name in LAYERS:
        hook = lambda _m, x, _o, n=name: seen.__setitem__(n, x[0].flatten(0, -2).double())  # noqa: E731
        backbone.module.get_submodule(name).register_forward_hook(hook)
    with torch.no_grad():
        backbone.pool(backbone.module, {"pixel_values": here.pixels(task, client)})
    return {name: torch.cat([x, x.new_ones(len(x), 1)], 1) for name, x in seen.items()}


def test_weights_that_are_stored_transposed_are_refused() -> None:
    with pytest.raises(UserError, match=r"c_attn.*stored transposed.*adapter.kind = 'lora'"):
        _require_plain(torch.zeros(12, 36), "c_attn", (36, 12))


@pytest.mark.parametrize("bias", ["solved", "averaged"])
def test_a_round_is_the_dense_formula(bias: str, world: Callable[..., World]) -> None:
    here = world(sizes=(4, 6), clients=2, adapter=Adapter(kind="full"))
    options = {"bias": bias, "off_diagonal": OFF, "ridge": RIDGE}
    method = here.method("regmean", rounds=1, **options)
    first, event, *_ = here.run(method)
    shared, task = first.state.shared, event.round.task
    joined, grams, counts = {name: [] for name in LAYERS}, {name: [] for name in LAYERS}, []
    for client in sorted(here.clients):
        data = here.clients[client].train(task)
        update = method.phases["train"].client_update(here.model, shared, data, event.round)
        x = reads(here, {**shared, **update}, task, client)
        counts.append(len(data))
        for name in LAYERS:
            weight, own = (update[f"base/{name}.{part}"].double() for part in ("weight", "bias"))
            joined[name].append(torch.cat([weight, own[:, None]], 1))
            gram = x[name].T @ x[name]
            grams[name].append(OFF * gram + (1 - OFF) * torch.diag(gram.diagonal()))
    for name in LAYERS:
        mean = sum(n * v for n, v in zip(counts, joined[name], strict=True)) / sum(counts)
        keep = slice(None) if bias == "solved" else slice(0, -1)
        parts = [(v[:, keep], g[keep, keep]) for v, g in zip(joined[name], grams[name], strict=True)]
        summed = sum(g for _, g in parts)
        lam = RIDGE * summed.trace() / len(summed)
        right = sum(v @ g for v, g in parts) + lam * mean[:, keep]
        expected = mean.clone()
        expected[:, keep] = right @ torch.linalg.inv(summed + lam * torch.eye(len(summed), dtype=torch.float64))
        found = torch.cat(
            [event.state.shared[f"base/{name}.{p}"].double().reshape(len(mean), -1) for p in ("weight", "bias")], 1
        )
        assert (found - expected).norm() < 1e-4 * expected.norm()
        assert (found - mean)[:, -1].norm() > 1e-6 * mean[:, -1].norm() or bias == "averaged"
