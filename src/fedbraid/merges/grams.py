"""The forms in which a Gram matrix travels beside the value that it belongs to.

For a value under `key` whose rows multiply inputs x (d of them), `G = sum x x^T` comes as one of

    diagonal/key                      the diagonal alone, d numbers
    triangle/key                      the whole symmetric matrix, d(d+1)/2 numbers
    vectors/key, values/key, diagonal/key
                                      the leading eigenpairs and the exact diagonal of the rest: l(d+1) + d numbers

The first two add; the third is expanded to a triangle by `lift`, wherever that runs.
"""

from __future__ import annotations

from torch import Tensor

from fedbraid.algebra import Tensors
from fedbraid.linalg import expand, from_triangle, to_triangle

FORMS = ("diagonal", "triangle", "vectors", "values")


def measured(tensors: Tensors) -> list[str]:
    """The keys of which a Gram is held."""
    return [key.split("/", 1)[1] for key in tensors if key.startswith(("triangle/", "diagonal/"))]


def read(tensors: Tensors, key: str) -> Tensor:
    """The Gram of `key` in fp64: d x d, or d numbers where it is diagonal."""
    if f"vectors/{key}" in tensors:
        parts = (tensors[f"{form}/{key}"].double() for form in ("vectors", "values", "diagonal"))
        return expand(*parts)
    if f"triangle/{key}" in tensors:
        return from_triangle(tensors[f"triangle/{key}"].double())
    return tensors[f"diagonal/{key}"].double()


def write(key: str, gram: Tensor) -> dict[str, Tensor]:
    """The additive form of a Gram, named for `key`."""
    return {f"diagonal/{key}": gram} if gram.ndim == 1 else {f"triangle/{key}": to_triangle(gram)}


def times(value: Tensor, gram: Tensor) -> Tensor:
    """`value G`, (m x d), or (d) for a value that is one row."""
    return value.double() * gram if gram.ndim == 1 else value.double() @ gram
