"""What each part of a layer is merged by, where all other parts are shared.

RegMean's objective, `min sum_i |answers of the merged layer - answers of client i's|^2` over client i's inputs, is
linear least squares in any one part of a layer whose other parts are shared. So `merges.regmean` solves it, with a Gram
of that part's own in the place of G_i; where that Gram is a vector, it weighs the entries:

    part     of the layer              its Gram on client i
    B        B A x                     A G_i A^T (r x r)
    A        B A x                     G_i (d_in x d_in)
    R        B R A x                   S_i = A G_i A^T (r x r)
    b        b∘(B (d∘(A x)))           diag(P G_i P^T), a vector, with P = B diag(d) A
    d        b∘(B (d∘(A x)))           (B^T diag(b)^2 B)∘S_i (r x r)
    l        l∘(W x + c)               the sum of (W x + c)∘(W x + c), a vector
    l        W (l∘x)                   (W^T W)∘G_i (d_in x d_in)
    [W, c]   W x + c                   that of [x, 1]

A and R come out whatever B is, since columns of a B of full rank see the same squares. Salami et al., LoRM, ICLR 2025,
treats the first two; the others follow by setting the derivative to zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedbraid.algebra import Tensors


def inner_squares(outer: Tensor, scales: Tensor | None = None) -> Tensor:
    """`W^T diag(scales)^2 W`, (n x n) in fp64: what a Gram of inputs is multiplied by, entry by entry.

    With the layer's W it makes the Gram of an input scaling; with B and b that of VeRA's d.
    """
    outer = outer.double() if scales is None else outer.double() * scales.double()[:, None]
    return outer.T @ outer


def read(tensors: Tensors, key: str) -> Tensor:
    """The value of that key; where there is none, [W, c] of `<key>.weight` and `<key>.bias`."""
    if key in tensors:
        return tensors[key]
    return torch.cat([tensors[f"{key}.weight"], tensors[f"{key}.bias"][:, None]], dim=1)


def write(tensors: Tensors, key: str, value: Tensor) -> dict[str, Tensor]:
    """The value under the names that `read` found it by."""
    if key in tensors:
        return {key: value}
    return {f"{key}.weight": value[:, :-1], f"{key}.bias": value[:, -1]}
