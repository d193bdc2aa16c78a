"""Masks are the published primitives put together as said, differ with every part of the context, and look random."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import struct

import numpy as np
import pytest
import torch

from fedbraid.secure import client, server
from fedbraid.secure.ciphers import agreed_key, digest, private_key, public_key
from fedbraid.secure.fixed_point import Layout
from fedbraid.secure.masks import add_stream, common_seed, is_added, sealing_key, stream
from fedbraid.secure.session import Session

SCALAR = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
POINT = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
PRODUCT = bytes.fromhex("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
"""RFC 7748, section 5.2."""


def chacha_block(key: bytes, counter: int) -> bytes:
    """RFC 8439, section 2.3, with a nonce of zeros."""
    start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), counter, 0, 0, 0]
    state = list(start)

    def quarter(*places: int) -> None:
        for (a, b, d), turn in zip(((0, 1, 3), (2, 3, 1), (0, 1, 3), (2, 3, 1)), (16, 12, 8, 7), strict=True):
            x, y, z = places[a], places[b], places[d]
            state[x] = (state[x] + state[y]) % 2**32
            mixed = state[z] ^ state[x]
            state[z] = (mixed << turn | mixed >> 32 - turn) % 2**32

    for _ in range(10):
        for i in range(4):
            quarter(i, i + 4, i + 8, i + 12)
        for i in range(4):
            quarter(i, (i + 1) % 4 + 4, (i + 2) % 4 + 8, (i + 3) % 4 + 12)
    return struct.pack("<16I", *((a + b) % 2**32 for a, b in zip(state, start, strict=True)))


def expand(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 for one block of output."""
    drawn = hmac.digest(salt, secret, hashlib.sha256)
    return hmac.digest(drawn, info + b"\1", hashlib.sha256)


def test_a_stream_is_chacha20_as_published() -> None:
    first = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"  # RFC 8439, appendix A.1, vector 1
    assert stream(bytes(32), 4).tobytes().hex() == first
    seed = bytes(range(32))
    blocks = b"".join(chacha_block(seed, counter) for counter in range(40))
    assert stream(seed, 317).tolist() == list(struct.unpack("<317Q", blocks[: 8 * 317]))


def test_a_long_stream_is_one_stream() -> None:
    seed, words = b"\7" * 32, stream(b"\7" * 32, 40_000)
    for start in (0, 16384 - 8, 16384, 32768 - 8, 32768, 39992):
        assert words[start : start + 8].tobytes() == chacha_block(seed, start // 8)
    assert np.array_equal(stream(seed, 20_001), words[:20_001])
    assert len(stream(seed, 0)) == 0


def test_every_bit_of_a_seed_counts() -> None:
    seed = int.from_bytes(bytes(range(32)), "big")
    seeds = [seed, *(seed ^ 1 << bit for bit in range(256))]
    assert len({stream(number.to_bytes(32, "big"), 2).tobytes() for number in seeds}) == 257


def test_what_is_added_is_taken_off_exactly() -> None:
    words = stream(b"\1" * 32, 1000)
    before = words.copy()
    add_stream(words, b"\2" * 32)
    assert np.array_equal(words, before + stream(b"\2" * 32, 1000))
    add_stream(words, b"\2" * 32, negative=True)
    assert np.array_equal(words, before)


def test_keys_are_agreed_by_x25519_and_hkdf_as_published() -> None:
    assert agreed_key(private_key(SCALAR), POINT, salt=b"salt", info=b"info") == expand(PRODUCT, b"salt", b"info")


def make_session(**changes) -> Session:
    settings = {"run": "run", "round": "0", "clients": tuple("abcde"), "layout": Layout.of({"x": torch.zeros(3)})}
    return Session(**{**settings, **changes})


def test_the_seed_of_two_is_what_the_page_says() -> None:
    session = make_session()
    expected = expand(PRODUCT, session.digest, digest("mask", "a", "b"))
    assert (
        common_seed(session, private_key(SCALAR), POINT, "a", "b")
        == common_seed(session, private_key(SCALAR), POINT, "b", "a")
        == expected
    )
    key = sealing_key(session, private_key(SCALAR), POINT, "a", "b")
    assert key == expand(PRODUCT, session.digest, digest("shares", "a", "b"))
    assert is_added("a", "b")
    assert not is_added("b", "a")


def test_both_sides_have_one_seed_and_each_context_another() -> None:
    sessions = [
        make_session(),
        make_session(run="other"),
        make_session(round="1"),
        make_session(run="ru", round="n0"),
        make_session(clients=tuple("abcdf")),
        make_session(threshold=5),
        make_session(layout=Layout.of({"x": torch.zeros(4)})),
        make_session(identities={name: bytes(32) for name in "abcde"}),
    ]
    one, two = private_key(b"\1" * 32), private_key(b"\2" * 32)
    found = set()
    for session in sessions:
        for pair in (("a", "b"), ("a", "c"), ("c", "b")):
            seed = common_seed(session, one, public_key(two), *pair)
            assert seed == common_seed(session, two, public_key(one), *reversed(pair))
            found.add(seed)
        keys = [sealing_key(session, one, public_key(two), *pair) for pair in (("a", "b"), ("b", "a"))]
        assert keys[0] == sealing_key(session, two, public_key(one), "a", "b")
        found |= {*keys}
    assert len(found) == 5 * len(sessions)


def deterministic(name: str):
    """Random bytes that are the same in every run."""
    state = {"count": 0}

    def random(size: int) -> bytes:
        state["count"] += 1
        return hashlib.shake_256(f"{name} {state['count']}".encode()).digest(size)

    return random


def masked_input(value: float, words: int) -> np.ndarray:
    """The words that one of three clients sends; the seals' nonces are random but leave no trace in them."""
    update = {"x": torch.full((words,), value)}
    session = Session("run", "0", tuple("abc"), Layout.of(update))
    own = {name: client.advertise(session, name, random=deterministic(name)) for name in "abc"}
    keys = server.collect_keys(session, {name: message for name, (_, message) in own.items()})
    shared = {name: client.share(own[name][0], keys.advertised) for name in "abc"}
    dealt = server.collect_shares(keys, {name: boxes for name, (_, boxes) in shared.items()})
    message = client.mask(shared["b"][0], update, dealt.boxes["b"])[1]
    return np.frombuffer(message, "<u8", offset=32)


@pytest.mark.parametrize("value", [0.0, 1.0, -1000.0])
def test_the_input_of_one_client_looks_random(value: float) -> None:
    """Chi-square over the bytes, all and place by place, within 4.5 deviations; with fixed keys it never flakes."""
    words = masked_input(value, 100_000)
    assert np.array_equal(words, masked_input(value, 100_000))
    columns = words.view(np.uint8).reshape(-1, 8)
    for sample in (columns.ravel(), *columns.T):
        expected = len(sample) / 256
        statistic = ((np.bincount(sample, minlength=256) - expected) ** 2 / expected).sum()
        assert abs(statistic - 255) < 4.5 * np.sqrt(2 * 255)


def test_inputs_of_equal_updates_have_nothing_in_common() -> None:
    same = masked_input(1.0, 20_000) ^ stream(b"\1" * 32, 20_000)
    differing = np.unpackbits(same.view(np.uint8)).mean()
    assert abs(differing - 0.5) < 0.005


def test_secrets_are_not_shown() -> None:
    stage, _ = client.advertise(make_session(), "a", random=lambda size: b"\xab" * size)
    text = repr(stage)
    assert "masking" not in text
    assert "seed" not in text
    assert dataclasses.asdict(stage)["seed"] == b"\xab" * 32  # plain data
