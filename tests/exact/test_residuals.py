"""What is merged beside the frozen weights: bounded ranks lose nothing; factors become a matrix when it is smaller."""

import pytest
import torch
from torch import Tensor

from fedbraid.core import Round, State, Task
from fedbraid.methods import residuals


def residual_of(seed: int, rank: int = 4, d_out: int = 14, d_in: int = 18) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    left = torch.randn(d_out, rank, generator=draws, dtype=torch.float64)
    return {"residual_B/x": left, "residual_A/x": torch.randn(rank, d_in, generator=draws, dtype=torch.float64)}


def merged(shared: dict[str, Tensor]) -> Tensor:
    """All that is merged, as one matrix."""
    loaded = residuals.weights(shared)
    parts = [loaded["dense/x"]] if "dense/x" in loaded else []
    parts += [loaded["delta_B/x"] @ loaded["delta_A/x"]] if "delta_B/x" in loaded else []
    return sum(parts, torch.zeros(14, 18)).double()


def place(state: State, number: int, residual: dict[str, Tensor], **options) -> State:
    round = Round(Task(number // 2, tuple(range(number // 2 + 2))), "train", number % 2, 0)
    return residuals.absorb(State({**state.shared, **residual}, state.server), round, **options)


def test_every_round_is_added_under_the_adapters_scale() -> None:
    state, expected = State({"lora_A/x": torch.zeros(2, 18)}), torch.zeros(14, 18).double()
    for number in range(5):
        residual = residual_of(number, rank=2)
        state = place(state, number, residual, scale=0.5)
        expected += 0.5 * residual["residual_B/x"] @ residual["residual_A/x"]
        torch.testing.assert_close(merged(dict(state.shared)), expected, rtol=0, atol=1e-5)
    assert not any(key.startswith("residual") for key in state.shared)


def test_factors_become_a_matrix_as_soon_as_they_are_larger() -> None:
    state, sizes = State(), []
    for number in range(6):
        state = place(state, number, residual_of(number, rank=2), scale=1.0)
        sizes.append(sum(value.numel() for value in state.shared.values()))
    dense = 14 * 18
    assert sizes[:3] == [2 * 32, 4 * 32, 6 * 32]
    assert sizes[3] == dense  # 8 * 32 numbers would be more
    assert sizes[4] == dense + 2 * 32


def test_a_dense_residual_is_added_to_the_matrix() -> None:
    matrix = torch.randn(14, 18, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state = place(State(), 0, {"residual/x": matrix}, scale=2.0)
    state = place(state, 1, {"residual/x": matrix}, scale=2.0)
    torch.testing.assert_close(merged(dict(state.shared)), 4 * matrix, rtol=1e-6, atol=1e-6)


def test_what_a_bound_cuts_is_carried_on_and_never_lost() -> None:
    state, expected = State(), torch.zeros(14, 18).double()
    for number in range(4):
        residual = residual_of(number)
        before = merged(dict(state.shared))
        state = place(state, number, residual, scale=1.0, bound=3)
        expected += residual["residual_B/x"] @ residual["residual_A/x"]
        assert torch.linalg.matrix_rank(merged(dict(state.shared)) - before, tol=1e-4) <= 3
        cut = state.server["cut_B/x"] @ state.server["cut_A/x"]
        torch.testing.assert_close(merged(dict(state.shared)) + cut, expected, rtol=0, atol=1e-5)
    for number in range(4, 12):  # rounds without news send what is left
        state = place(state, number, residual_of(0, rank=0), scale=1.0, bound=3)
    torch.testing.assert_close(merged(dict(state.shared)), expected, rtol=0, atol=1e-5)


def test_error_feedback_beats_plain_truncation() -> None:
    """Ten rounds of the same residual: with feedback the sum is near the exact one, without it the tail is missing."""
    residual = residual_of(3)
    exact = 10 * residual["residual_B/x"] @ residual["residual_A/x"]
    kept, plain = State(), State()
    for number in range(10):
        kept = place(kept, number, residual, scale=1.0, bound=2)
        plain = place(State(plain.shared), number, residual, scale=1.0, bound=2)
    lost = [(merged(dict(state.shared)) - exact).norm() / exact.norm() for state in (kept, plain)]
    assert lost[0] < 0.5 * lost[1]


@pytest.mark.parametrize("rounds", [("0.9", "0.10"), ("9.0", "10.0")])
def test_rounds_are_in_their_order_not_in_that_of_their_names(rounds: tuple[str, str]) -> None:
    draws = torch.Generator().manual_seed(0)
    shared = {
        f"merged/{name}/{factor}/x": torch.randn(shape, generator=draws)
        for name in reversed(rounds)
        for factor, shape in (("B", (14, 1)), ("A", (1, 18)))
    }
    left = residuals.weights(shared)["delta_B/x"]
    assert torch.equal(left[:, :1], shared[f"merged/{rounds[0]}/B/x"])
