"""The residual of exact aggregation: contrasts of thin factors against the dense loop, in one run.

    python benchmarks/residual.py [--quick]

For every layer shape, number of clients K and rank r: seconds of processor time (after a first time; ours the median of
five), peak memory above that of the factors themselves, and megabytes of what is sent in fp32, of

    dense   sum_i p_i (B_i A_i) - Bbar Abar as a matrix in fp32, product by product: what public code does
    ours    exact factors of rank (K - 1) r in fp64 (`fedbraid.low_rank.residual`), their product where that is smaller

on the same factors, with one thread, each in a process of its own. The error is that of ours against the dense
difference in fp64, relative.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from fedbraid.low_rank import residual

SHAPES = [(4096, 4096), (14336, 4096)]
CLIENTS = [3, 10, 30]
RANKS = [4, 16, 64]


def dense(lefts: list[Tensor], rights: list[Tensor], weights: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix, one product a client."""
    lefts, rights, weights = [x.to(dtype) for x in lefts], [x.to(dtype) for x in rights], weights.to(dtype)
    total = torch.zeros(lefts[0].shape[0], rights[0].shape[1], dtype=dtype)
    for weight, left, right in zip(weights, lefts, rights, strict=True):
        total += (weight * left) @ right
    means = [sum(w * x for w, x in zip(weights, factors, strict=True)) for factors in (lefts, rights)]
    return total - means[0] @ means[1]


def ours(lefts: list[Tensor], rights: list[Tensor], weights: Tensor) -> tuple[Tensor, ...]:
    """Factors, or the matrix where factors would be larger."""
    left, right = residual(lefts, rights, weights)
    return (left, right) if left.numel() + right.numel() < left.shape[0] * right.shape[1] else (left @ right,)


def measured(work: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """(median seconds, peak megabytes above the start), in a process of its own."""
    answers: Any = multiprocessing.get_context("fork").SimpleQueue()
    child = multiprocessing.get_context("fork").Process(target=_measure, args=(work, repeats, answers))
    child.start()
    found = answers.get()
    child.join()
    return found


def _measure(work: Callable[[], Any], repeats: int, answers: Any) -> None:
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
    seconds: list[float] = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    answers.put((median(seconds), peak / 1024))


def main() -> None:
    torch.set_num_threads(1)
    quick = "--quick" in sys.argv
    print("                     |    milliseconds          |  peak megabytes |  megabytes sent |")
    print("        layer   K   r |   dense     ours   ratio |   dense    ours |   dense    ours | error")
    for d_out, d_in in SHAPES[:1] if quick else SHAPES:
        for clients in CLIENTS[:2] if quick else CLIENTS:
            for rank in RANKS[:2] if quick else RANKS:
                row(d_out, d_in, clients, rank)


def row(d_out: int, d_in: int, clients: int, rank: int) -> None:
    """Measures and prints one setting."""
    draws = torch.Generator().manual_seed(0)
    lefts = [torch.randn(d_out, rank, generator=draws) for _ in range(clients)]
    rights = [torch.randn(rank, d_in, generator=draws) for _ in range(clients)]
    weights = torch.rand(clients, generator=draws).double()
    weights /= weights.sum()
    slow = measured(lambda: dense(lefts, rights, weights), 1)
    fast = measured(lambda: ours(lefts, rights, weights), 5)
    parts = ours(lefts, rights, weights)
    exact = dense(lefts, rights, weights, torch.float64)
    error = ((parts[0] if len(parts) == 1 else parts[0] @ parts[1]) - exact).norm() / exact.norm()
    sent = (4 * exact.numel() / 1e6, 4 * sum(part.numel() for part in parts) / 1e6)
    print(
        f"{d_out:>6}x{d_in:<5} {clients:>3} {rank:>3} | {slow[0] * 1e3:7.0f} {fast[0] * 1e3:8.1f} "
        f"{slow[0] / fast[0]:6.0f}x | {slow[1]:7.0f} {fast[1]:7.0f} | {sent[0]:7.1f} {sent[1]:7.2f} | {error:.0e}",
        flush=True,
    )


if __name__ == "__main__":
    main()
