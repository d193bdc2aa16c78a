"""Solves against numpy's least squares and eigendecomposition; nothing wrong comes back without an error."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedbraid.errors import RunError
from fedbraid.linalg import (
    expand,
    from_triangle,
    low_rank_plus_diagonal,
    right_solve,
    shrink,
    to_triangle,
)

SEEDS = st.integers(0, 2**32 - 1)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_spectrum(spectrum: Tensor, seed: int = 0) -> Tensor:
    size = len(spectrum)
    basis = torch.linalg.qr(normal(size, size, seed=seed)).Q
    gram = (basis * spectrum) @ basis.T
    return (gram + gram.T) / 2


def least_squares(inputs: Tensor, targets: Tensor, mean: Tensor, lam: float) -> Tensor:
    """`argmin |W X - Y|^2 + lam |W - mean|^2` by numpy from the stacked system; X is (d, n), Y is (m, n)."""
    rows = np.vstack([inputs.T.numpy(), math.sqrt(lam) * np.eye(len(inputs))])
    right = np.vstack([targets.T.numpy(), math.sqrt(lam) * mean.T.numpy()])
    return torch.from_numpy(np.linalg.lstsq(rows, right, rcond=None)[0].T)


@given(st.integers(1, 12), SEEDS)
def test_a_triangle_comes_back_as_its_matrix(size: int, seed: int) -> None:
    square = normal(size, size, seed=seed)
    symmetric = square + square.T
    triangle = to_triangle(symmetric)
    assert triangle.shape == (size * (size + 1) // 2,)
    assert torch.equal(from_triangle(triangle), symmetric)
    assert torch.equal(to_triangle(from_triangle(triangle)), triangle)


def test_triangles_add_as_their_matrices_do() -> None:
    a, b = (torch.round(100 * normal(5, 5, seed=s)) for s in (1, 2))
    a, b = a + a.T, b + b.T
    assert torch.equal(from_triangle(to_triangle(a) + to_triangle(b)), a + b)


@pytest.mark.parametrize("count", [2, 4, 5, 7, 11])
def test_other_counts_are_no_triangle(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} numbers are no triangle"):
        from_triangle(torch.zeros(count))


@given(st.integers(1, 10), st.integers(1, 30), SEEDS)
def test_right_solve_is_ridge_regression(size: int, samples: int, seed: int) -> None:
    x, y = normal(size, samples, seed=seed), normal(3, samples, seed=seed + 1)
    mean = normal(3, size, seed=seed + 2)
    gram = x @ x.T
    expected = least_squares(x, y, mean, 1e-2 * gram.trace().item() / size)
    assert torch.allclose(right_solve(y @ x.T, gram, mean, ridge=1e-2), expected, rtol=1e-10, atol=1e-10)


def test_right_solve_without_ridge_is_least_squares() -> None:
    x, y = normal(6, 40), normal(3, 40, seed=1)
    solved = right_solve(y @ x.T, x @ x.T, torch.zeros(3, 6), ridge=0.0)
    expected = torch.from_numpy(np.linalg.lstsq(x.T.numpy(), y.T.numpy(), rcond=None)[0].T)
    assert torch.allclose(solved, expected, rtol=1e-10, atol=1e-10)


@given(st.integers(1, 10), SEEDS, st.sampled_from([0.0, 1e-6, 0.1]))
def test_a_diagonal_is_the_dense_matrix_that_it_stands_for(size: int, seed: int, ridge: float) -> None:
    diagonal = normal(size, seed=seed).square() + 0.1
    product, mean = normal(4, size, seed=seed + 1), normal(4, size, seed=seed + 2)
    dense = right_solve(product, torch.diag(diagonal), mean, ridge=ridge)
    assert torch.allclose(right_solve(product, diagonal, mean, ridge=ridge), dense, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(5,), (5, 5)])
@pytest.mark.parametrize("ridge", [0.0, 1e-6])
def test_where_nobody_has_data_the_mean_stays(shape: tuple[int, ...], ridge: float) -> None:
    mean = normal(3, 5)
    assert torch.equal(right_solve(torch.zeros(3, 5), torch.zeros(shape), mean, ridge=ridge), mean)


@pytest.mark.parametrize("ridge", [0.0, 1e-6])
def test_an_unseen_column_of_a_diagonal_keeps_the_mean(ridge: float) -> None:
    gram = torch.tensor([2.0, 0.0, 3.0, 0.0], dtype=torch.float64)
    values, mean = normal(3, 4), normal(3, 4, seed=1)
    solved = right_solve(values * gram, gram, mean, ridge=ridge)
    assert torch.allclose(solved[:, [1, 3]], mean[:, [1, 3]], rtol=1e-12)
    assert torch.allclose(solved[:, [0, 2]], values[:, [0, 2]], rtol=1e-5)


def test_an_unseen_direction_of_a_dense_gram_keeps_the_mean() -> None:
    x = normal(8, 3)  # five directions of eight are unseen
    values, mean = normal(3, 8, seed=1), normal(3, 8, seed=2)
    gram = x @ x.T
    solved = right_solve(values @ gram, gram, mean, ridge=1e-6)
    unseen = torch.linalg.svd(x).U[:, 3:]
    assert torch.allclose(solved @ unseen, mean @ unseen, rtol=0, atol=1e-8)
    assert torch.allclose(solved @ x, values @ x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("exponent", range(2, 13))
@pytest.mark.parametrize("ridge", [0.0, 1e-6])
def test_ill_conditioned_grams_are_answered_or_refused(exponent: int, ridge: float) -> None:
    """RELIABILITY, promise 10: the response error is at most 1e-3, or there is an error."""
    size = 40
    spectrum = torch.logspace(0, -exponent, size, dtype=torch.float64)
    for seed in range(5):
        gram = with_spectrum(spectrum, seed)
        exact = normal(3, size, seed=seed + 100)
        try:
            solved = right_solve(exact @ gram, gram, torch.zeros(3, size), ridge=ridge)
        except RunError:
            continue
        root = with_spectrum(spectrum.sqrt(), seed)  # inputs whose Gram this is
        assert torch.linalg.norm((solved - exact) @ root) <= 1e-3 * torch.linalg.norm(exact @ root)


@pytest.mark.parametrize("samples", [1, 5, 20])
@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_fewer_samples_than_dimensions(samples: int, offset: float) -> None:
    x = normal(40, samples) + offset * normal(40, 1, seed=1)
    exact, gram = normal(3, 40, seed=2), x @ x.T
    solved = right_solve(exact @ gram, gram, torch.zeros(3, 40), ridge=1e-6)
    assert torch.linalg.norm((solved - exact) @ x) <= 1e-3 * torch.linalg.norm(exact @ x)
    assert torch.linalg.norm(solved) <= 1.01 * torch.linalg.norm(exact)  # nothing is inflated


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(4,), (4, 4)])
def test_what_is_not_finite_is_refused(value: float, shape: tuple[int, ...]) -> None:
    gram = torch.ones(4, dtype=torch.float64) if len(shape) == 1 else torch.eye(4, dtype=torch.float64)
    bad = gram.clone().reshape(-1)
    bad[0] = value
    with pytest.raises(RunError, match="not finite"):
        right_solve(torch.ones(2, 4), bad.reshape(shape), torch.zeros(2, 4), ridge=1e-6)
    product = torch.ones(2, 4)
    product[1, 2] = value
    with pytest.raises(RunError, match="not finite"):
        right_solve(product, gram, torch.zeros(2, 4), ridge=1e-6)


def test_what_is_no_sum_of_squares_is_refused() -> None:
    product, mean = torch.ones(2, 3), torch.zeros(2, 3)
    with pytest.raises(RunError, match="negative trace"):
        right_solve(product, -torch.eye(3), mean, ridge=1e-6)
    with pytest.raises(RunError, match="negative trace"):
        right_solve(product, -torch.ones(3), mean, ridge=1e-6)
    with pytest.raises(RunError, match="not positive definite"):
        right_solve(product, torch.diag(torch.tensor([5.0, 5.0, -1.0])), mean, ridge=1e-6)
    with pytest.raises(RunError, match="negative entry"):
        right_solve(product, torch.tensor([5.0, 5.0, -1.0]), mean, ridge=1e-6)
    for gram in (torch.tensor([1.0, -1.0, 0.0]), torch.ones(3, 3) - torch.eye(3)):
        with pytest.raises(RunError, match="trace of zero but is not zero"):
            right_solve(product, gram, mean, ridge=1e-6)


def test_a_negative_entry_within_the_ridge_is_refused() -> None:
    """Loaded by the ridge it would come near zero, and the division would inflate its column without a word."""
    gram = torch.tensor([1.0, 1.0, -2e-6 / 3 * (1 - 1e-9)], dtype=torch.float64)
    with pytest.raises(RunError, match="negative entry"):
        right_solve(torch.ones(1, 3), gram, torch.zeros(1, 3), ridge=1e-6)


def test_a_singular_gram_without_ridge_is_refused() -> None:
    x = normal(6, 2)
    with pytest.raises(RunError, match=r"not positive definite|ill-conditioned"):
        right_solve(normal(3, 6), x @ x.T, torch.zeros(3, 6), ridge=0.0)


@pytest.mark.parametrize("shape", [(3,), (3, 3)])
def test_an_answer_that_is_not_finite_is_refused(shape: tuple[int, ...]) -> None:
    gram = torch.full((3,), 1e-200, dtype=torch.float64)
    gram = gram if len(shape) == 1 else torch.diag(gram)
    with pytest.raises(RunError, match=r"not finite|ill-conditioned"):
        right_solve(torch.full((2, 3), 1e200, dtype=torch.float64), gram, torch.zeros(2, 3), ridge=1e-6)


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.5, 1.0])
def test_shrinking_keeps_the_diagonal_and_positive_semidefinite(factor: float) -> None:
    x = normal(12, 4)
    gram = x @ x.T
    shrunk = shrink(gram, factor)
    expected = torch.tensor([[gram[i, j] * (1 if i == j else factor) for j in range(12)] for i in range(12)])
    assert torch.equal(shrunk, expected)
    assert torch.linalg.eigvalsh(shrunk).min() >= -1e-12 * gram.trace()
    assert torch.equal(shrink(gram.diagonal(), factor), gram.diagonal())


@pytest.mark.parametrize(("size", "rank"), [(10, 3), (60, 8), (150, 8), (150, 1), (6, 20)])
@pytest.mark.parametrize("decay", [0.8, 0.95, 0.99])
def test_low_rank_is_the_leading_eigenpairs(size: int, rank: int, decay: float) -> None:
    spectrum = torch.tensor([decay**i for i in range(size)], dtype=torch.float64)
    gram = with_spectrum(spectrum, seed=size)
    vectors, values, diagonal = low_rank_plus_diagonal(gram, rank)
    kept = min(rank, size)
    true_values, true_vectors = np.linalg.eigh(gram.numpy())
    assert vectors.shape == (size, kept)
    gap = decay ** (min(size, 2 * rank + 8) - kept) if size > 2 * rank + 8 else 0.0
    angle = gap**13  # what 13 products leave of the directions outside, up to a factor
    assert np.allclose(values.numpy(), true_values[-kept:], rtol=max(1e-10, min(10 * angle**2, 1e-2)), atol=0)
    assert (values.numpy() <= true_values[-kept:] * (1 + 1e-12)).all()
    leading = true_vectors[:, -kept:] * true_values[-kept:] @ true_vectors[:, -kept:].T
    if angle < 1e-2:
        assert np.abs(((vectors * values) @ vectors.T).numpy() - leading).max() <= max(1e-10, 10 * angle)
    assert torch.allclose(vectors.T @ vectors, torch.eye(kept, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(expand(vectors, values, diagonal).diagonal(), gram.diagonal(), rtol=1e-12, atol=1e-12)


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 6), SEEDS, st.sampled_from([0.0, 0.1, 1.0]))
def test_low_rank_plus_diagonal_keeps_the_diagonal_and_is_positive_semidefinite(
    size: int, samples: int, rank: int, seed: int, decay: float
) -> None:
    x = normal(size, samples, seed=seed) * torch.exp(-decay * torch.arange(size, dtype=torch.float64)).unsqueeze(1)
    gram = x @ x.T
    vectors, values, diagonal = low_rank_plus_diagonal(gram, rank)
    whole = expand(vectors, values, diagonal)
    assert (values >= 0).all()
    assert (diagonal >= 0).all()
    assert torch.allclose(whole.diagonal(), gram.diagonal(), rtol=1e-10, atol=1e-12 * gram.trace().item())
    assert torch.linalg.eigvalsh(whole).min() >= -1e-12 * gram.trace()


def test_low_rank_of_nothing_and_of_nan() -> None:
    vectors, values, diagonal = low_rank_plus_diagonal(torch.zeros(20, 20), 2)
    assert torch.equal(expand(vectors, values, diagonal), torch.zeros(20, 20, dtype=torch.float64))
    with pytest.raises(RunError, match="not finite"):
        low_rank_plus_diagonal(torch.full((20, 20), math.nan), 2)


def test_low_rank_is_a_function_of_its_input_alone() -> None:
    gram = with_spectrum(torch.logspace(0, -3, 50, dtype=torch.float64))
    before = torch.get_rng_state()
    first = low_rank_plus_diagonal(gram, 4)
    torch.manual_seed(5)
    second = low_rank_plus_diagonal(gram, 4)
    torch.set_rng_state(before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
