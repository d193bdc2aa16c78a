"""The one property of all exact methods: the new weight is the weighted mean of the clients' weights.

Clients' factors are drawn, not trained, so that nothing depends on what training would have done.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedbraid.algebra import total
from fedbraid.core import ImageInput, Round, State, Task
from fedbraid.local.training import Training
from fedbraid.merges import FedEx, Stack, gathered
from fedbraid.methods import METHODS, Setting, make
from fedbraid.models import AdaptedModel, Adapter
from fedbraid.models.adapters import DELTA, LORA
from fedbraid.models.backbones import Backbone
from fedbraid.models.torchvision import make_torchvision_importable
from fedbraid.phases import Train

EXACT = {
    "ffa_lora": {},
    "rolora": {},
    "flora": {},
    "fed_talora": {},
    "fedex_lora": {},
    "fedex_lora dense": {"encoding": "dense"},
    "fedex_lora sketch": {"encoding": "sketch", "sketch_width": 14},
}
CLIENTS = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 3), st.sampled_from([None, 1.5, 12.0])), min_size=1, max_size=4
)


class Stacked(nn.Module):
    """Blocks with plain, non-square and fused layers of `nn.Linear`."""

    def __init__(self) -> None:
        super().__init__()
        names = {"proj": (12, 12), "fc1": (20, 12), "fc2": (12, 20), "qkv": (36, 12)}
        block = nn.ModuleDict({name: nn.Linear(d_in, d_out) for name, (d_out, d_in) in names.items()})
        self.blocks = nn.ModuleList([block])


def gpt2() -> nn.Module:
    """GPT-2's block: `Conv1D`, whose weights are stored transposed, with a fused c_attn."""
    make_torchvision_importable()
    from transformers import GPT2Config, GPT2Model

    return GPT2Model(GPT2Config(vocab_size=11, n_positions=8, n_embd=12, n_layer=1, n_head=2))


def build(family: str, dtype: torch.dtype = torch.float32) -> AdaptedModel:
    make_torchvision_importable()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = (Stacked() if family == "linear" else gpt2()).to(dtype)
    backbone = Backbone(family, module, ImageInput(4), 12, lambda m, x: x["pixel_values"])
    return AdaptedModel(backbone, Adapter(rank=3, alpha=6.0))


def effective(model: AdaptedModel, layer: str) -> Tensor:
    """(d_out, d_in) in fp64: frozen weight, active terms and dense term, as they lie in the module."""
    module = model.backbone.module.get_submodule(layer)
    weight = module.base_layer.weight.detach().double()
    weight = weight if isinstance(module.base_layer, nn.Linear) else weight.T
    for name in module.active_adapters:
        assert name in (LORA, DELTA)
        left, right = module.lora_B[name].weight, module.lora_A[name].weight
        assert left.dtype == right.dtype == torch.float32
        weight = weight + module.scaling[name] * left.detach().double() @ right.detach().double()
    dense = model._tuning._dense.get(layer)  # type: ignore[attr-defined]
    return weight if dense is None else weight + dense.double()


def answered(model: AdaptedModel, layer: str) -> Tensor:
    """The same from what the layer answers to unit vectors."""
    module = model.backbone.module.get_submodule(layer)
    d_in = model.layers[layer][1]
    with torch.no_grad():
        return (module(torch.eye(d_in)) - module(torch.zeros(1, d_in))).T.double()


def drawn(received: dict[str, Tensor], trained: tuple[str, ...], seed: int) -> dict[str, Tensor]:
    """What a client might have made of the factors of these kinds."""
    draws = torch.Generator().manual_seed(seed)
    factors = {key: value for key, value in received.items() if key.split("/", 1)[0] in trained}
    return {key: torch.randn(value.shape, generator=draws) * 0.4 for key, value in sorted(factors.items())}


def one_round(
    train: Train, model: AdaptedModel, state: State, round: Round, counts: dict[str, float], weight: Callable
) -> tuple[State, dict[str, Tensor]]:
    """The state after a round of drawn updates, and the weighted mean of the clients' weights by layer."""
    kinds = tuple(kind for kind in train.kinds(round) if kind.startswith("lora"))
    means: dict[str, Tensor] = dict.fromkeys(model.layers, torch.zeros(1))
    lifted, share = [], sum(counts.values())
    for number, (client, count) in enumerate(counts.items()):
        received = train.capacities.receive(train.weights(state.shared, round), client)
        values = drawn(dict(received), kinds, 100 * round.index + number)
        model.load({**received, **values})
        means = {layer: mean + weight(model, layer) * (count / share) for layer, mean in means.items()}
        update = train.capacities.send(values, client) | {"count": torch.tensor(count)} | gathered.signature(client)
        lifted.append(train.lift(state.shared, update, round))
    return train.server_update(model, state, total(lifted), round), means


@pytest.mark.parametrize("family", ["linear", "conv1d"])
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@settings(max_examples=6, deadline=None)
@given(clients=CLIENTS)
def test_the_new_weight_is_the_mean_of_the_weights(name: str, dtype: torch.dtype, family: str, clients: list) -> None:
    model = build(family, dtype=dtype)
    frozen = {n: p.detach().clone() for n, p in model.backbone.module.named_parameters() if "base_layer" in n}
    ids = [f"c/{number}" for number in range(len(clients))]
    setting = Setting(
        model.adapter,
        Training(),
        rounds=3,
        ranks={one: rank for one, (_, rank, _) in zip(ids, clients, strict=True) if rank < 3},
        alphas={one: alpha for one, (_, _, alpha) in zip(ids, clients, strict=True) if alpha},
    )
    train = make(METHODS[name.split()[0]](**EXACT[name]), setting).phases["train"]
    assert isinstance(train, Train)
    state, counts = State(model.fresh(torch.Generator().manual_seed(1))), {}
    weight = answered if dtype == torch.float32 else effective
    for index in range(3):
        counts = {one: float(count) for one, (count, _, _) in zip(ids, clients, strict=True)}
        round = Round(Task(0, (0, 2)), "train", index, 0)
        state, means = one_round(train, model, state, round, counts, weight)
        model.load(train.weights(state.shared, round))
        for layer, mean in means.items():
            error = (weight(model, layer) - mean).norm() / mean.norm()
            assert error <= 1e-5, f"{layer}: {error}"
    now = dict(model.backbone.module.named_parameters())
    assert all(torch.equal(now[n], value) for n, value in frozen.items()), "a frozen weight was changed"


@pytest.mark.parametrize("merge", [FedEx(), FedEx("dense"), FedEx("sketch", 13), Stack()], ids=str)
@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(1, 1000), min_size=1, max_size=5), seed=st.integers(0, 2**20))
def test_in_fp64_it_is_exact_to_rounding(merge: FedEx | Stack, counts: list[int], seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    updates = [
        {
            "count": torch.tensor(float(count)).double(),
            "lora_B/x": torch.randn(17, 3, generator=draws).double(),
            "lora_A/x": torch.randn(3, 14, generator=draws).double(),
            **gathered.signature(str(number)),
        }
        for number, count in enumerate(counts)
    ]
    merged = merge.solve(total(map(merge.lift, updates)))
    mean = sum(c / sum(counts) * u["lora_B/x"] @ u["lora_A/x"] for c, u in zip(counts, updates, strict=True))
    got = torch.zeros_like(mean)
    for left, right in (("lora_B/x", "lora_A/x"), ("residual_B/x", "residual_A/x")):
        got = got + merged[left] @ merged[right] if left in merged else got
    got = got + merged.get("residual/x", 0)
    assert (got - mean).norm() / mean.norm() <= 1e-12


def test_a_residual_is_of_rank_k_minus_one_times_r_and_has_no_bytes_for_one_client() -> None:
    draws = torch.Generator().manual_seed(0)
    updates = [
        {
            "count": torch.tensor(1.0),
            "lora_B/x": torch.randn(30, 2, generator=draws),
            "lora_A/x": torch.randn(2, 40, generator=draws),
            **gathered.signature(client),
        }
        for client in "abc"
    ]
    merge = FedEx()
    assert merge.solve(total(map(merge.lift, updates)))["residual_B/x"].shape == (30, 4)
    assert merge.solve(merge.lift(updates[0]))["residual_B/x"].shape == (30, 0)


def test_the_property_sees_a_transposed_residual() -> None:
    """The trap of public codes: on a square layer nothing but the numbers shows it."""
    model = build("linear")
    train = make(METHODS["fedex_lora"](), Setting(model.adapter, Training(), rounds=1)).phases["train"]
    round, state = Round(Task(0, (0, 2)), "train", 0, 0), State(model.fresh(torch.Generator().manual_seed(1)))
    state, means = one_round(train, model, state, round, {"a": 1.0, "b": 3.0}, answered)
    start, layer = "merged/0.0", "blocks.0.proj"
    left, right = state.shared[f"{start}/B/{layer}"], state.shared[f"{start}/A/{layer}"]
    turned = {**state.shared, f"{start}/B/{layer}": right.T, f"{start}/A/{layer}": left.T}
    model.load(train.weights(turned, round))
    assert (answered(model, layer) - means[layer]).norm() / means[layer].norm() > 0.01
    model.load(train.weights(replace(state).shared, round))
    assert (answered(model, layer) - means[layer]).norm() / means[layer].norm() < 1e-5
