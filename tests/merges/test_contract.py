"""`check_merge` holds for the merges of the package and catches merges that break it."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fedbraid.algebra import Statistic, Tensors
from fedbraid.linalg import low_rank_plus_diagonal, to_triangle
from fedbraid.merges import Fisher, Mean, Merge, RegMean, Ties
from fedbraid.testing import check_merge


def updates(measured: str = "") -> list[dict[str, Tensor]]:
    """Two values of three clients, with what is measured about the first."""
    draws = torch.Generator().manual_seed(0)
    found = []
    for count in (3.0, 5.0, 2.0):
        value, x = torch.randn(4, 6, generator=draws), torch.randn(6, 20, generator=draws).double()
        vectors, values, diagonal = low_rank_plus_diagonal(x @ x.T, 2)
        forms = {
            "": {},
            "fisher": {"fisher": torch.rand(4, 6, generator=draws)},
            "triangle": {"triangle": to_triangle(x @ x.T)},
            "diagonal": {"diagonal": (x @ x.T).diagonal()},
            "low_rank": {"vectors": vectors, "values": values, "diagonal": diagonal},
        }
        update = {"count": torch.tensor(count, dtype=torch.float64), "base/x": value, "head/0": value[:2] + 1}
        found.append(update | {f"{form}/base/x": tensor for form, tensor in forms[measured].items()})
    return found


@pytest.mark.parametrize(
    ("merge", "measured"),
    [
        (Mean(), ""),
        (RegMean(), "triangle"),
        (RegMean(), "diagonal"),
        (RegMean(0.1), "low_rank"),
        (Fisher(), "fisher"),
        (Fisher(0.0), "fisher"),
        (Ties(1.0), ""),
        (Ties(0.3), ""),
    ],
    ids=str,
)
def test_it_holds(merge: Merge, measured: str) -> None:
    check_merge(merge, updates(measured))


@dataclass
class Broken:
    """The mean, with another `lift` or `solve`."""

    lifted: Callable[[Tensors], Statistic] = Mean().lift
    solved: Callable[[Statistic], Tensors] = Mean().solve

    def lift(self, update: Tensors) -> Statistic:
        return self.lifted(update)

    def solve(self, total: Statistic) -> Tensors:
        return self.solved(total)


def shifted_in_place(update: Tensors) -> Statistic:
    update["base/x"].add_(1)
    return Mean().lift(update)


def first_come(total: Statistic) -> Tensors:
    """Takes the order in which keys arrived for something that says which client was first."""
    first = next(key for key in total if key.startswith("from/"))
    return {"base/x": total[first]}


def by_client(update: Tensors) -> Statistic:
    return Statistic({f"from/{update['count'].item()}": update["base/x"]})


@pytest.mark.parametrize(
    ("merge", "fault"),
    [
        (Broken(lifted=shifted_in_place), "changed an update in place"),
        (Broken(lifted=by_client, solved=first_come), "the order of clients matters"),
        (Broken(solved=lambda total: {"base/x": total["sum/base/x"] / 3}), "taken twice changes the merge"),
        (Broken(solved=lambda total: {"base/x": total["sum/base/x"] / total["count"].sqrt()}), "taken twice"),
        (Broken(solved=lambda total: {"base/x": total["sum/base/x"] / 0}), "not finite"),
        (Broken(solved=lambda total: {f"{total['count'].item()}": total["sum/base/x"]}), "what no client has sent"),
    ],
)
def test_a_broken_merge_is_caught(merge: Merge, fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        check_merge(merge, updates())
