"""The merge of every part of a layer, against least squares over the explicit Jacobians of the layer's answers."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.functional import jacobian

from fedbraid.algebra import total
from fedbraid.linalg import low_rank_plus_diagonal, to_triangle
from fedbraid.merges import RegMean
from fedbraid.merges.parts import inner_squares
from fedbraid.testing import check_merge

DRAWN = settings(max_examples=12, deadline=None)
RIDGES = st.sampled_from([1e-4, 1e-1, 10.0])


@dataclass(frozen=True)
class Layer:
    """What clients share of a layer, and the inputs (d_in x tokens) and count of each."""

    w: Tensor
    c: Tensor
    a: Tensor
    b: Tensor
    left: Tensor
    d: Tensor
    inputs: list[Tensor]
    counts: list[float]


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """Shapes, numbers of tokens and of clients at random; some clients see fewer tokens than there are unknowns."""
    d_out, d_in = draw(st.integers(2, 6)), draw(st.integers(2, 6))
    rank = draw(st.integers(1, min(d_out, d_in)))
    tokens = draw(st.lists(st.integers(1, 15), min_size=1, max_size=4))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    return Layer(
        normal(d_out, d_in),
        normal(d_out),
        normal(rank, d_in),
        normal(d_out),
        normal(d_out, rank),
        normal(rank),
        [normal(d_in, n) for n in tokens],
        [float(n) for n in tokens],
    )


@dataclass(frozen=True)
class Part:
    """A part's shape, the layer's answers as its function, and what is measured of it."""

    shape: Callable[[Layer], tuple[int, ...]]
    answers: Callable[[Layer, Tensor, Tensor], Tensor]
    gram: Callable[[Layer, Tensor], dict[str, Tensor]]


def vector(entries: Tensor) -> dict[str, Tensor]:
    return {"diagonal/x": entries}


def matrix(gram: Tensor) -> dict[str, Tensor]:
    return {"triangle/x": to_triangle(gram)}


PARTS = {
    "output scaling": Part(
        lambda s: (len(s.c),),
        lambda s, x, v: v[:, None] * (s.w @ x + s.c[:, None]),
        lambda s, x: vector((s.w @ x + s.c[:, None]).square().sum(1)),
    ),
    "input scaling": Part(
        lambda s: (s.w.shape[1],),
        lambda s, x, v: s.w @ (v[:, None] * x) + s.c[:, None],
        lambda s, x: matrix(inner_squares(s.w) * (x @ x.T)),
    ),
    "vera b": Part(
        lambda s: (len(s.c),),
        lambda s, x, b: b[:, None] * (s.left @ (s.d[:, None] * (s.a @ x))),
        lambda s, x: vector(((s.left * s.d) @ s.a @ x).square().sum(1)),
    ),
    "vera d": Part(
        lambda s: (len(s.d),),
        lambda s, x, d: s.b[:, None] * (s.left @ (d[:, None] * (s.a @ x))),
        lambda s, x: matrix(inner_squares(s.left, s.b) * (s.a @ x @ x.T @ s.a.T)),
    ),
    "core": Part(
        lambda s: (len(s.d), len(s.d)),
        lambda s, x, r: r @ (s.a @ x),  # an orthonormal B: with it the ridge is one on R
        lambda s, x: matrix(s.a @ x @ x.T @ s.a.T),
    ),
    "low-rank B": Part(
        lambda s: (len(s.c), len(s.d)),
        lambda s, x, b: b @ (s.a @ x),
        lambda s, x: matrix(s.a @ x @ x.T @ s.a.T),
    ),
}
EVERY = pytest.mark.parametrize("name", PARTS)


def values(part: Part, layer: Layer, seed: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(part.shape(layer), generator=g, dtype=torch.float64) for _ in layer.inputs]


def updates(part: Part, layer: Layer, own: list[Tensor]) -> list[dict[str, Tensor]]:
    return [
        {"count": torch.tensor(n, dtype=torch.float64), "x": value, **part.gram(layer, x)}
        for n, value, x in zip(layer.counts, own, layer.inputs, strict=True)
    ]


def merged(found: list[dict[str, Tensor]], ridge: float) -> Tensor:
    merge = RegMean(ridge)
    return dict(merge.solve(total(map(merge.lift, found))))["x"]


def stacked(part: Part, layer: Layer, own: list[Tensor], ridge: float) -> Tensor:
    """`argmin sum |f_i(v) - f_i(v_i)|^2 + lam |v - mean|^2` by the rows of all Jacobians at once."""
    found = [jacobian(lambda v, x=x: part.answers(layer, x, v), v) for x, v in zip(layer.inputs, own, strict=True)]
    rows = [j.reshape(-1, own[0].numel()) for j in found]
    right = [j @ value.flatten() for j, value in zip(rows, own, strict=True)]
    if ridge:
        root = math.sqrt(ridge * sum(j.square().sum() for j in rows) / own[0].numel())
        mean = sum(n * v for n, v in zip(layer.counts, own, strict=True)) / sum(layer.counts)
        rows.append(root * torch.eye(own[0].numel(), dtype=torch.float64))
        right.append(root * mean.flatten())
    solution = torch.linalg.lstsq(torch.cat(rows), torch.cat(right)[:, None]).solution
    return solution.reshape(own[0].shape)


def near(a: Tensor, b: Tensor, tolerance: float = 1e-8) -> bool:
    return bool((a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item()))


@EVERY
@DRAWN
@given(layer=layers(), ridge=RIDGES, seed=st.integers(0, 1000))
def test_a_part_is_merged_by_least_squares_on_the_answers(name: str, layer: Layer, ridge: float, seed: int) -> None:
    part = PARTS[name]
    own = values(part, layer, seed)
    assert near(merged(updates(part, layer, own), ridge), stacked(part, layer, own, ridge))


@EVERY
@DRAWN
@given(layer=layers(), ridge=RIDGES, seed=st.integers(0, 1000))
def test_one_value_for_all_is_the_merge(name: str, layer: Layer, ridge: float, seed: int) -> None:
    part = PARTS[name]
    own = values(part, layer, seed)[:1] * len(layer.inputs)
    assert near(merged(updates(part, layer, own), ridge), own[0], 1e-7)


@EVERY
@DRAWN
@given(layer=layers(), ridge=RIDGES, seed=st.integers(0, 1000))
def test_splitting_a_client_and_permuting_change_nothing(name: str, layer: Layer, ridge: float, seed: int) -> None:
    part = PARTS[name]
    own = values(part, layer, seed)
    cut = layer.inputs[0].shape[1] // 2
    halves = [layer.inputs[0][:, :cut], layer.inputs[0][:, cut:], *layer.inputs[1:]]
    apart = replace(layer, inputs=halves, counts=[float(x.shape[1]) for x in halves])
    whole = merged(updates(part, layer, own), ridge)
    assert near(merged(updates(part, apart, [own[0], *own]), ridge), whole)
    assert near(merged(updates(part, layer, own)[::-1], ridge), whole)


@DRAWN
@given(layer=layers(), seed=st.integers(0, 1000))
def test_a_core_is_least_squares_whatever_the_b_of_full_rank(layer: Layer, seed: int) -> None:
    """`B R A x` with the layer's own B: without a ridge it drops out."""
    part = Part(PARTS["core"].shape, lambda s, x, r: s.left @ r @ (s.a @ x), PARTS["core"].gram)
    enough = [x.repeat(1, 8) + torch.linspace(0, 1, 8 * x.numel()).reshape(len(x), -1).cos() for x in layer.inputs]
    here = replace(layer, inputs=enough)
    own = values(part, here, seed)
    solved, expected = merged(updates(part, here, own), 0.0), stacked(part, here, own, 0.0)
    for x in enough:  # compared by the answers: the squares that both minimise are as ill-conditioned as the draw
        assert near(here.left @ solved @ here.a @ x, here.left @ expected @ here.a @ x, 1e-6)


@EVERY
def test_where_nobody_has_data_the_mean_remains(name: str) -> None:
    g = torch.Generator().manual_seed(0)
    shapes = [(4, 5), (4,), (2, 5), (4,), (4, 2), (2,)]
    parts = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]
    layer = Layer(*parts, inputs=[torch.zeros(5, 3, dtype=torch.float64)] * 2, counts=[1.0, 3.0])
    layer = replace(layer, c=0 * layer.c)  # a bias alone is an answer to nothing
    own = values(PARTS[name], layer, 1)
    assert near(merged(updates(PARTS[name], layer, own), 1e-6), (own[0] + 3 * own[1]) / 4, 1e-12)


# --- weight and bias ----------------------------------------------------------------------------------------------


def biased(layer: Layer, form: str, seed: int) -> list[dict[str, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    found = []
    for n, x in zip(layer.counts, layer.inputs, strict=True):
        ones = torch.cat([x, torch.ones(1, x.shape[1], dtype=torch.float64)])
        vectors, sizes, rest = low_rank_plus_diagonal(ones @ ones.T, 2)
        gram = {
            "triangle": {"triangle/base/x": to_triangle(ones @ ones.T)},
            "diagonal": {"diagonal/base/x": ones.square().sum(1)},
            "low_rank": {"vectors/base/x": vectors, "values/base/x": sizes, "diagonal/base/x": rest},
        }[form]
        weight = torch.randn(layer.w.shape, generator=g, dtype=torch.float64)
        bias = torch.randn(layer.c.shape, generator=g, dtype=torch.float64)
        count = torch.tensor(n, dtype=torch.float64)
        found.append({"count": count, "base/x.weight": weight, "base/x.bias": bias, **gram})
    return found


@DRAWN
@given(layer=layers(), ridge=RIDGES, seed=st.integers(0, 1000))
def test_weight_and_bias_are_solved_together(layer: Layer, ridge: float, seed: int) -> None:
    found = biased(layer, "triangle", seed)
    part = Part(lambda s: (), lambda s, x, v: v[:, :-1] @ x + v[:, -1:], lambda s, x: {})
    own = [torch.cat([u["base/x.weight"], u["base/x.bias"][:, None]], 1) for u in found]
    merge = RegMean(ridge)
    result = merge.solve(total(map(merge.lift, found)))
    expected = stacked(part, layer, own, ridge)
    assert set(result) == {"base/x.weight", "base/x.bias"}
    assert near(result["base/x.weight"], expected[:, :-1])
    assert near(result["base/x.bias"], expected[:, -1])


def test_with_a_diagonal_gram_a_bias_counts_by_tokens() -> None:
    w, c = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    layer = Layer(w, c, w, c, w, c, [torch.ones(3, 6).double(), torch.ones(3, 2).double()], [1.0, 1.0])
    found = biased(layer, "diagonal", 0)
    merge = RegMean(0.0)
    result = merge.solve(total(map(merge.lift, found)))
    assert near(result["base/x.bias"], (6 * found[0]["base/x.bias"] + 2 * found[1]["base/x.bias"]) / 8, 1e-12)


# --- the contract -------------------------------------------------------------------------------------------------


@EVERY
def test_parts_keep_the_contract_of_merges(name: str) -> None:
    g = torch.Generator().manual_seed(2)
    shapes = [(4, 5), (4,), (2, 5), (4,), (4, 2), (2,)]
    parts = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]
    inputs = [torch.randn(5, n, generator=g, dtype=torch.float64) for n in (9, 4, 6)]
    layer = Layer(*parts, inputs=inputs, counts=[9.0, 4.0, 6.0])
    check_merge(RegMean(), updates(PARTS[name], layer, values(PARTS[name], layer, 0)))


@pytest.mark.parametrize("form", ["triangle", "diagonal", "low_rank"])
def test_a_layer_with_bias_keeps_the_contract_of_merges(form: str) -> None:
    g = torch.Generator().manual_seed(2)
    w, c = torch.randn(4, 5, generator=g).double(), torch.randn(4, generator=g).double()
    inputs = [torch.randn(5, n, generator=g, dtype=torch.float64) for n in (9, 4, 6)]
    check_merge(RegMean(), biased(Layer(w, c, w, c, w, c, inputs, [9.0, 4.0, 6.0]), form, 0))
