"""The estimate of what averaging loses, against the dense difference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedbraid.algebra import total
from fedbraid.low_rank import norm, residual
from fedbraid.merges import deviation


def updates(seed: int, clients: int, rank: int = 4, d_out: int = 40, d_in: int = 60) -> list[dict[str, Tensor]]:
    draws = torch.Generator().manual_seed(seed)
    return [
        {
            "count": torch.tensor(float(number + 1)).double(),
            "lora_B/x": torch.randn(d_out, rank, generator=draws),
            "lora_A/x": torch.randn(rank, d_in, generator=draws),
        }
        for number in range(clients)
    ]


def exact(found: list[dict[str, Tensor]]) -> tuple[float, float]:
    """(scaled, relative), densely and in fp64."""
    counts = torch.stack([one["count"] for one in found])
    p = counts / counts.sum()
    lefts, rights = ([one[key].double() for one in found] for key in ("lora_B/x", "lora_A/x"))
    mean = sum(w * b @ a for w, b, a in zip(p, lefts, rights, strict=True))
    means = [sum(w * x for w, x in zip(p, factor, strict=True)) for factor in (lefts, rights)]
    lost = mean - means[0] @ means[1]
    assert abs(norm(residual(lefts, rights, p)) - lost.norm().item()) < 1e-9 * max(1, lost.norm().item())
    return lost.norm().item() / mean.numel() ** 0.5, (lost.norm() / mean.norm()).item()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), clients=st.integers(2, 6), scale=st.sampled_from([1.0, 0.5]))
def test_it_is_near_the_exact_one(seed: int, clients: int, scale: float) -> None:
    found = updates(seed, clients)
    scaled, relative = deviation.solve(total(map(deviation.lift, found)), scale)["x"]
    expected = exact(found)
    assert scaled == pytest.approx(scale * expected[0], rel=0.3)
    assert relative == pytest.approx(expected[1], rel=0.4)


def test_on_average_its_square_is_right() -> None:
    """The same factors under many names have as many independent probes."""
    (one, other), names = updates(0, 2), [f"layer{number}" for number in range(200)]
    lifted = [
        deviation.lift({"count": u["count"], **{f"lora_{f}/{n}": u[f"lora_{f}/x"] for n in names for f in "AB"}})
        for u in (one, other)
    ]
    squares = [scaled**2 for scaled, _ in deviation.solve(total(lifted), 1.0).values()]
    assert sum(squares) / len(squares) == pytest.approx(exact([one, other])[0] ** 2, rel=0.03)


def test_equal_factors_lose_nothing_and_one_factor_alone_has_no_entry() -> None:
    one = updates(0, 1)[0]
    scaled, relative = deviation.solve(total([deviation.lift(one), deviation.lift(one)]), 1.0)["x"]
    assert scaled < 1e-12
    assert relative < 1e-12
    assert not deviation.lift({"count": one["count"], "lora_B/x": one["lora_B/x"]})
