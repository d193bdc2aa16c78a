"""Clients of unequal ranks and scales: what they load, send, and what the server makes of it."""

import pytest
import torch
from torch import Tensor

from fedbraid import config
from fedbraid.errors import UserError
from fedbraid.local.capacities import Capacities
from fedbraid.local.training import Training
from fedbraid.methods import METHODS, Setting, make
from fedbraid.models import Adapter

SHARED = {
    "lora_A/x": torch.arange(12.0).reshape(3, 4),
    "lora_B/x": torch.arange(15.0).reshape(5, 3),
    "head/0": torch.ones(2, 3),
}


def update_of(values: dict[str, Tensor], scale: float) -> Tensor:
    product = values["lora_B/x"] @ values["lora_A/x"] * scale
    return product + values["delta_B/x"] @ values["delta_A/x"] if "delta_B/x" in values else product


def test_a_client_like_all_others_loads_what_it_receives() -> None:
    assert Capacities(2.0, ranks={"b": 1}).receive(SHARED, "a") is SHARED


@pytest.mark.parametrize("scale", [2.0, 0.25, 1.0])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_model_of_a_small_client_is_the_shared_one(rank: int, scale: float) -> None:
    sizes = Capacities(2.0, ranks={"a": rank}, scales={"a": scale})
    loaded = dict(sizes.receive(SHARED, "a"))
    assert loaded["lora_A/x"].shape == (rank, 4)
    torch.testing.assert_close(update_of(loaded, loaded["scale"].item()), update_of(SHARED, 2.0))


def test_what_was_merged_before_stays() -> None:
    before = {"delta_B/x": torch.ones(5, 1), "delta_A/x": torch.ones(1, 4)}
    loaded = dict(Capacities(1.0, ranks={"a": 1}).receive({**SHARED, **before}, "a"))
    torch.testing.assert_close(update_of(loaded, 1.0), update_of({**SHARED, **before}, 1.0))


def test_what_is_sent_is_the_same_update_in_the_shared_scale() -> None:
    sizes = Capacities(2.0, ranks={"a": 2}, scales={"a": 0.5})
    trained = {"lora_A/x": torch.rand(2, 4), "lora_B/x": torch.rand(5, 2), "head/0": torch.rand(2, 3)}
    sent = sizes.send(trained, "a")
    torch.testing.assert_close(2.0 * sent["lora_B/x"] @ sent["lora_A/x"], update_of(trained, 0.5))
    assert sent["head/0"] is trained["head/0"]


def test_the_rest_is_as_received_or_zero() -> None:
    sent = {"lora_A/x": torch.rand(1, 4), "lora_B/x": torch.rand(5, 1)}
    whole = Capacities(1.0).whole(SHARED, sent)
    assert torch.equal(whole["lora_A/x"][1:], SHARED["lora_A/x"][1:])
    assert torch.equal(whole["lora_B/x"][:, :1], sent["lora_B/x"])
    dropped = Capacities(1.0, rest="dropped").whole(SHARED, sent)
    assert torch.equal(dropped["lora_B/x"][:, 1:], torch.zeros(5, 2))


@pytest.mark.parametrize("alpha", [0.0, -2.0, float("inf")])
def test_a_scale_that_nothing_can_be_trained_or_sent_at_is_refused(alpha: float) -> None:
    with pytest.raises(UserError, match=r"adapter.alpha = .* must be above 0"):
        Adapter(alpha=alpha)
    with pytest.raises(UserError, match=r"adapter.alphas holds .* must be above 0"):
        config.capacities(config.read({"method": {"name": "fedit"}, "adapter": {"alphas": [alpha]}}), ["a"])


def test_scales_follow_ranks_and_alphas() -> None:
    setting = Setting(Adapter(rank=8, alpha=16), Training(), 1, ranks={"a": 4}, alphas={"b": 4.0, "c": 4.0})
    assert setting.capacities.scales == {"a": 4.0, "b": 0.5, "c": 0.5}
    assert setting.capacities.scale == 2.0
    assert Setting(Adapter(rank=8), Training(), 1, ranks={"a": 4}).capacities.scales == {"a": 1.0}


def test_a_method_that_needs_equal_clients_says_so() -> None:
    with pytest.raises(UserError, match="'lorm' needs clients of one rank"):
        make(METHODS["lorm"](), Setting(Adapter(rank=2), Training(), 1, ranks={"a": 1}))
