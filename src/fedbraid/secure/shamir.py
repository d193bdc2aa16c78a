"""Secrets in shares, any `threshold` of which give the secret back while fewer say nothing at all.

Shamir, How to share a secret, 1979. The secret is the value at 0 of a random polynomial f of degree `threshold - 1`
over a prime field, the share of point x > 0 is f(x), and

    f(0) = sum_i f(x_i) prod_{j != i} x_j / (x_j - x_i)

The prime is 2^256 + 297, the smallest one above 2^256: every 32-byte secret is a number of the field as it stands, none
has to be drawn again or folded, and a share has one byte more than a secret, which is the least possible.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence

from fedbraid.errors import RunError, UserError

PRIME = 2**256 + 297
SECRET = 32
"""Bytes of a secret."""
SHARE = 33
"""Bytes of a share."""


def split(
    secret: bytes, points: Sequence[int], *, threshold: int, below: Callable[[int], int] = secrets.randbelow
) -> dict[int, bytes]:
    """The share of every point, where a point is a number of the field other than 0.

    >>> shares = split(bytes(32), [1, 2, 3], threshold=2)
    >>> recover(list(shares.items())[1:], threshold=2) == bytes(32)
    True
    """
    if len(secret) != SECRET:
        raise UserError(f"a secret to be shared has {SECRET} bytes, not {len(secret)}")
    if not 1 <= threshold <= len(points):
        raise UserError(f"{len(points)} shares cannot have a threshold of {threshold}; choose 1 to {len(points)}")
    _check_points(points)
    polynomial = [int.from_bytes(secret, "big"), *(below(PRIME) for _ in range(threshold - 1))]
    return {x: _value(polynomial, x).to_bytes(SHARE, "big") for x in points}


def recover(shares: Iterable[tuple[int, bytes]], *, threshold: int) -> bytes:
    """The secret behind (point, share) pairs.

    `RunError` where there are fewer than the threshold, or where those above it lie on another polynomial.
    """
    known = [(x, _number(x, share)) for x, share in shares]
    _check_points([x for x, _ in known])
    if len(known) < threshold:
        raise RunError(f"{len(known)} shares are too few: this secret takes {threshold}")
    points, values = [x for x, _ in known[:threshold]], [y for _, y in known[:threshold]]
    for x, y in known[threshold:]:
        if _interpolate(_weights(points, x), values) != y:
            raise RunError(f"the share of point {x} does not fit the other ones: at least one of them is false")
    return _secret(_weights(points, 0), values)


def recover_each(points: Sequence[int], shared: Iterable[Sequence[bytes]]) -> Iterator[bytes]:
    """The secrets whose shares of these points, as many as the threshold, are given; `RunError` where one is damaged.

    What depends on the points alone is computed once: of n secrets it would take n times as long.
    """
    _check_points(points)
    weights = _weights(points, 0)
    for shares in shared:
        yield _secret(weights, [_number(x, share) for x, share in zip(points, shares, strict=True)])


def _value(polynomial: Sequence[int], x: int) -> int:
    found = 0
    for coefficient in reversed(polynomial):
        found = (found * x + coefficient) % PRIME
    return found


def _weights(points: Sequence[int], at: int) -> list[int]:
    """How much the value at each point counts in that at `at`, whatever the polynomial through them is."""
    found: list[int] = []
    for x in points:
        above, under = 1, 1
        for other in points:
            if other != x:
                above = above * (at - other) % PRIME
                under = under * (x - other) % PRIME
        found.append(above * pow(under, -1, PRIME) % PRIME)
    return found


def _interpolate(weights: Sequence[int], values: Sequence[int]) -> int:
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) % PRIME


def _secret(weights: Sequence[int], values: Sequence[int]) -> bytes:
    found = _interpolate(weights, values)
    if found >= 2 ** (8 * SECRET):
        raise RunError(f"these shares give no secret of {SECRET} bytes: at least one of them is false")
    return found.to_bytes(SECRET, "big")


def _number(x: int, share: bytes) -> int:
    number = int.from_bytes(share, "big")
    if len(share) != SHARE or number >= PRIME:
        raise RunError(f"the share of point {x} is damaged: {SHARE} bytes below the prime are one, not {len(share)}")
    return number


def _check_points(points: Sequence[int]) -> None:
    if any(not 0 < x < PRIME for x in points):
        raise UserError(f"shares belong to points from 1 on, not to {min(points)}; 0 is the secret itself")
    if len({*points}) < len(points):
        twice = sorted(x for x in {*points} if points.count(x) > 1)
        raise UserError(f"two shares for point {twice[0]}; give every point once")
