"""Messages: what goes in comes out rounded as declared; what is damaged is refused, never run, never anything else."""

import ast
import json
import pickle
import random
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fedbraid
from fedbraid.errors import RunError
from fedbraid.runtimes.codec import Codec

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__"
)


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Tensor]:
    tensors = {}
    for name in draw(st.lists(NAMES, unique=True, max_size=4)):
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        dtype = draw(st.sampled_from(DTYPES))
        values = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) * 10
        tensors[name] = values.abs().to(dtype) if dtype in (torch.uint8, torch.bool) else values.to(dtype)
    return tensors


@given(messages(), st.dictionaries(NAMES, st.text(st.characters(codec="utf-8"), max_size=12), max_size=3))
def test_round_trip(tensors: dict[str, Tensor], text: dict[str, str]) -> None:
    message = Codec().decode(Codec().encode(tensors, text))
    assert dict(message.text) == text
    assert set(message.tensors) == set(tensors)
    for key, tensor in tensors.items():
        on_wire = torch.float32 if tensor.is_floating_point() and tensor.ndim else tensor.dtype
        assert message.tensors[key].dtype == on_wire
        assert message.tensors[key].shape == tensor.shape
        assert torch.equal(message.tensors[key], tensor.to(on_wire))


@given(messages())
def test_a_second_trip_changes_nothing(tensors: dict[str, Tensor]) -> None:
    once = Codec().decode(Codec().encode(tensors)).tensors
    twice = Codec().decode(Codec().encode(once)).tensors
    assert all(torch.equal(once[key], twice[key]) and once[key].dtype == twice[key].dtype for key in tensors)


def test_counts_keep_fp64_and_values_that_are_not_finite_travel() -> None:
    tensors = {
        "count": torch.tensor(2.0**24 + 1, dtype=torch.float64),
        "x": torch.tensor([torch.nan, torch.inf, -0.0, 1e-45], dtype=torch.float64),
    }
    back = Codec().decode(Codec().encode(tensors)).tensors
    assert back["count"].item() == 2**24 + 1
    assert torch.equal(back["x"].nan_to_num(7.0, 8.0), tensors["x"].float().nan_to_num(7.0, 8.0))


def test_views_and_gradients_travel_as_their_values() -> None:
    base = torch.arange(12.0, requires_grad=True).reshape(3, 4)
    tensors = {"rows": base[1:], "columns": base[:, 1], "turned": base.T}
    back = Codec().decode(Codec().encode(tensors)).tensors
    assert all(torch.equal(back[key], value.detach()) for key, value in tensors.items())
    assert not any(value.requires_grad for value in back.values())


def test_names_come_in_one_order() -> None:
    payload = Codec().encode({f"layer/{i}": torch.zeros(i) for i in (5, 1, 9, 3, 7)})
    assert all(list(Codec().decode(payload).tensors) == [f"layer/{i}" for i in (1, 3, 5, 7, 9)] for _ in range(10))


def test_another_wire_format() -> None:
    codec = Codec(dtype=torch.bfloat16)
    back = codec.decode(codec.encode({"x": torch.full((3,), 1.001), "n": torch.tensor(1.001)})).tensors
    assert back["x"].dtype == torch.bfloat16
    assert back["n"].item() == torch.tensor(1.001).item()


def test_the_cap_holds_on_both_sides() -> None:
    tensors = {"x": torch.zeros(1000)}
    payload = Codec().encode(tensors)
    assert Codec(limit=len(payload)).decode(payload).tensors["x"].shape == (1000,)
    with pytest.raises(RunError, match=rf"{len(payload)} bytes is above the cap of {len(payload) - 1}"):
        Codec(limit=len(payload) - 1).encode(tensors)
    with pytest.raises(RunError, match=rf"refused a message of {len(payload)} bytes: the cap is {len(payload) - 1}"):
        Codec(limit=len(payload) - 1).decode(payload)


PAYLOAD = Codec().encode(
    {
        "lora_A/x": torch.arange(12.0).reshape(3, 4),
        "count": torch.tensor(3.0),
        "n": torch.arange(4),
        "e": torch.zeros(0, 2),
    },
    {"address": '{"task": 0, "client": "7"}'},
)
HEADER = 8 + int.from_bytes(PAYLOAD[:8], "little")


def decoded_or_refused(payload: bytes) -> bool:
    """Whether the bytes are a message; any exception but `RunError` is a failure of the test."""
    with suppress(RunError):
        Codec().text(payload)
    try:
        message = Codec().decode(payload)
    except RunError:
        return False
    assert Codec().text(payload) == message.text
    assert all(isinstance(tensor, Tensor) for tensor in message.tensors.values())
    assert all(isinstance(key, str) and isinstance(value, str) for key, value in message.text.items())
    return True


def test_every_truncation_is_refused() -> None:
    assert not any(decoded_or_refused(PAYLOAD[:size]) for size in range(len(PAYLOAD)))
    assert not decoded_or_refused(PAYLOAD + b"\0")


def test_every_flipped_bit_is_refused_or_a_message() -> None:
    for place in range(len(PAYLOAD)):
        for bit in range(8):
            damaged = bytearray(PAYLOAD)
            damaged[place] ^= 1 << bit
            accepted = decoded_or_refused(bytes(damaged))
            assert accepted or place < HEADER  # the data's bytes are any numbers


def test_many_changed_bytes_are_refused_or_a_message() -> None:
    draws = random.Random(0)
    for _ in range(3000):
        damaged = bytearray(PAYLOAD)
        for _ in range(draws.randint(1, 6)):
            damaged[draws.randrange(HEADER)] = draws.randrange(256)
        decoded_or_refused(bytes(damaged))


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_are_refused_or_a_message(payload: bytes) -> None:
    decoded_or_refused(payload)


def framed(header: object) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "payload",
    [
        framed({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),  # a bomb: claims, no bytes
        framed({"x": {"dtype": "F32", "shape": [2**63, 2**63], "data_offsets": [0, 0]}}),
        framed({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}),
        framed({"x": {"dtype": "Q7", "shape": [0], "data_offsets": [0, 0]}}),
        framed({"x": 3}),
        framed([]),
        framed(b"\xff\xfe"),
        framed(b"[" * 100_000),
        framed(b'{"a":' * 100_000),
        framed(b'{"x": NaN}'),
        framed(b'{"__metadata__": {"to": "a", "to": "b"}}'),
        framed(b'{"__metadata__": {"to": "a"}, "__metadata__": {"to": "b"}}'),
        framed({"x" * 10**6: 3}),
        framed({"x": {"dtype": "F32", "shape": [], "data_offsets": ["0", "4"]}}) + b"four",
        (2**63).to_bytes(8, "little") + b"{}",
        (2**40).to_bytes(8, "little") + b"{}",
        b"",
    ],
)
def test_hostile_headers_are_refused(payload: bytes) -> None:
    assert not decoded_or_refused(payload)


def test_what_was_sent_is_not_repeated_at_length() -> None:
    with pytest.raises(RunError) as refused:
        Codec().decode(framed({"x" * 10**6: 3}))
    assert len(str(refused.value)) < 400


def test_text_that_is_no_text_is_refused() -> None:
    for odd in (
        {"__metadata__": {"a": 1}},
        {"__metadata__": 3},
        {"__metadata__": {"a": {"b": "c"}}},
        {"__metadata__": []},
    ):
        assert not decoded_or_refused(framed(odd))


class Bomb:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_never_opened(protocol: int, tmp_path: Path) -> None:
    payload = pickle.dumps(Bomb(tmp_path / "executed"), protocol)
    saved = tmp_path / "saved.pt"
    torch.save({"x": Bomb(tmp_path / "executed")}, saved)
    for hostile in (payload, framed(payload), saved.read_bytes(), framed(saved.read_bytes())):
        assert not decoded_or_refused(hostile)
    assert not (tmp_path / "executed").exists()


FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {("torch", "load"), ("torch", "save"), ("numpy", "load"), ("np", "load")}


def test_no_module_of_the_package_unpickles() -> None:
    """RELIABILITY, promise 11, read off the source."""
    files = sorted(Path(fedbraid.__file__).parent.rglob("*.py"))
    assert len(files) > 30
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
                owner = (node.module or "").split(".")[0]
                found += [f"{file}: {owner}.{a.name}" for a in node.names if (owner, a.name) in FORBIDDEN_CALLS]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found += [f"{file}: {node.value.id}.{node.attr}"] * ((node.value.id, node.attr) in FORBIDDEN_CALLS)
            found += [f"{file}: import {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
    assert not found
