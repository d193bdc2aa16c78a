"""Any threshold of shares gives the secret back, fewer are refused and say nothing, false ones are noticed."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbraid.errors import RunError, UserError
from fedbraid.secure.shamir import PRIME, SHARE, recover, recover_each, split

SECRETS = st.binary(min_size=32, max_size=32)
SPLITS = st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


def is_prime(number: int) -> bool:
    """Miller and Rabin, with the first twenty primes as bases."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71):
        power = pow(base, odd, number)
        if power not in (1, number - 1) and all(pow(base, odd << i, number) != number - 1 for i in range(1, twos)):
            return False
    return True


def test_the_prime_is_the_smallest_that_holds_every_secret() -> None:
    assert is_prime(PRIME)
    assert not any(is_prime(number) for number in range(2**256 + 1, PRIME))


@given(SECRETS, SPLITS, st.randoms(use_true_random=False))
def test_threshold_shares_or_more_give_the_secret(secret: bytes, sizes: tuple[int, int], draws) -> None:
    n, threshold = sizes
    shares = list(split(secret, range(1, n + 1), threshold=threshold).items())
    chosen = draws.sample(shares, draws.randint(threshold, n))
    assert recover(chosen, threshold=threshold) == secret


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(31) + b"\1"])
def test_every_choice_of_shares_gives_the_secret(secret: bytes) -> None:
    shares = list(split(secret, [1, 2, 5, 9, 1000], threshold=3).items())
    assert all(len(share) == SHARE for _, share in shares)
    assert all(recover(chosen, threshold=3) == secret for size in (3, 4, 5) for chosen in combinations(shares, size))


@given(st.lists(SECRETS, max_size=4), SPLITS, st.randoms(use_true_random=False))
def test_secrets_shared_to_the_same_points_are_what_each_alone_is(secrets: list, sizes: tuple[int, int], draws) -> None:
    n, threshold = sizes
    points = draws.sample(range(1, n + 1), threshold)
    shared = [split(secret, range(1, n + 1), threshold=threshold) for secret in secrets]
    assert list(recover_each(points, [[shares[x] for x in points] for shares in shared])) == secrets


@given(SECRETS, st.integers(2, 12))
def test_fewer_are_refused(secret: bytes, threshold: int) -> None:
    shares = list(split(secret, range(1, 13), threshold=threshold).items())
    for count in range(threshold):
        with pytest.raises(RunError, match=f"{count} shares are too few: this secret takes {threshold}"):
            recover(shares[:count], threshold=threshold)


@given(SECRETS, SECRETS, st.integers(0, PRIME - 1), st.integers(2, PRIME - 1))
def test_one_share_of_two_fits_every_secret(secret: bytes, other: bytes, slope: int, point: int) -> None:
    share = split(secret, [1, point], threshold=2, below=lambda _: slope)[point]
    fitting = (int.from_bytes(share, "big") - int.from_bytes(other, "big")) * pow(point, -1, PRIME) % PRIME
    assert split(other, [1, point], threshold=2, below=lambda _: fitting)[point] == share


def test_coefficients_are_drawn_from_the_whole_field_and_differ_each_time() -> None:
    drawn: list[int] = []

    def below(limit: int) -> int:
        drawn.append(limit)
        return limit - 1

    split(bytes(32), [1, 2, 3, 4], threshold=4, below=below)
    assert drawn == [PRIME] * 3
    assert len({split(bytes(32), [1, 2], threshold=2)[1] for _ in range(100)}) == 100


@given(SECRETS, st.integers(0, 5), st.integers(0, 8 * SHARE - 1))
def test_a_changed_share_among_more_than_the_threshold_is_noticed(secret: bytes, place: int, bit: int) -> None:
    shares = list(split(secret, range(1, 7), threshold=4).items())
    x, share = shares[place]
    shares[place] = x, (int.from_bytes(share, "big") ^ 1 << bit).to_bytes(SHARE, "big")
    with pytest.raises(RunError, match=r"false|damaged"):
        recover(shares, threshold=4)


def test_points_are_given_once_and_never_zero() -> None:
    shares = split(bytes(32), [1, 2, 3], threshold=2)
    with pytest.raises(UserError, match="two shares for point 2"):
        recover([(2, shares[2]), (2, shares[3])], threshold=2)
    with pytest.raises(UserError, match="two shares for point 2"):
        split(bytes(32), [1, 2, 2], threshold=2)
    for points in ([0, 1], [-1, 1], [1, PRIME]):
        with pytest.raises(UserError, match="from 1 on"):
            split(bytes(32), points, threshold=2)
        with pytest.raises(UserError, match="from 1 on"):
            recover([(x, shares[1]) for x in points], threshold=2)


def test_secrets_shares_and_thresholds_have_their_sizes() -> None:
    for secret in (b"", bytes(31), bytes(33)):
        with pytest.raises(UserError, match="32 bytes"):
            split(secret, [1, 2], threshold=2)
    for threshold in (0, 3):
        with pytest.raises(UserError, match="choose 1 to 2"):
            split(bytes(32), [1, 2], threshold=threshold)
    for share in (b"", bytes(32), bytes(34), PRIME.to_bytes(33, "big"), b"\xff" * 33):
        with pytest.raises(RunError, match="point 1 is damaged"):
            recover([(1, share), (2, bytes(33))], threshold=2)
    with pytest.raises(RunError, match="no secret of 32 bytes"):
        recover([(1, (PRIME - 1).to_bytes(33, "big"))], threshold=1)
