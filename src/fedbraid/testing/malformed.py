"""Answers that are wrong in one way each, made of an honest one: damaged, foreign, of another form, impossible.

A kind is a function of the honest answer, of others to mistake it for, and of a generator; None where the answer has
nothing of the kind, such as a Gram that is not there.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import save
from torch import Tensor

from fedbraid.core import ClientId
from fedbraid.linalg import from_triangle
from fedbraid.runtimes.codec import Codec


@dataclass(frozen=True)
class Case:
    """An honest answer, those of the other clients in its round, and the client's own of other rounds."""

    client: ClientId
    payload: bytes
    others: Sequence[bytes]
    elsewhere: Sequence[bytes]

    @property
    def tensors(self) -> dict[str, Tensor]:
        return dict(Codec().decode(self.payload).tensors)

    @property
    def text(self) -> dict[str, str]:
        return dict(Codec().decode(self.payload).text)


Kind = Callable[[Case, random.Random], "bytes | None"]


def _framed(header: bytes, body: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + body


def _parts(case: Case) -> tuple[bytes, bytes]:
    """(header, body) of the honest answer."""
    end = 8 + int.from_bytes(case.payload[:8], "little")
    return case.payload[8:end], case.payload[end:]


def _of_header(change: Callable[[bytes], bytes]) -> Kind:
    """The header's bytes changed, over the same body."""

    def make(case: Case, _draw: random.Random) -> bytes:
        header, body = _parts(case)
        return _framed(change(header), body)

    return make


def _of_text(**text: str) -> Kind:
    return lambda case, _draw: save(case.tensors, metadata={**case.text, **text})


def _of_tensors(
    change: Callable[[Tensor, random.Random], Tensor], fits: Callable[[str, Tensor], bool] = lambda _name, _tensor: True
) -> Kind:
    """One of the tensors that fit changed."""

    def make(case: Case, draw: random.Random) -> bytes | None:
        tensors = case.tensors
        names = [name for name, tensor in tensors.items() if fits(name, tensor)]
        if not names:
            return None
        name = draw.choice(names)
        tensors[name] = change(tensors[name].clone(), draw).contiguous()
        return save(tensors, metadata=case.text)

    return make


def _with(value: float) -> Callable[[Tensor, random.Random], Tensor]:
    """One number replaced."""

    def change(tensor: Tensor, draw: random.Random) -> Tensor:
        tensor.view(-1)[draw.randrange(tensor.numel())] = value
        return tensor

    return change


def _renamed(rename: Callable[[str, random.Random], str | None]) -> Kind:
    """One tensor under another name, or under none."""

    def make(case: Case, draw: random.Random) -> bytes:
        tensors = case.tensors
        name = draw.choice(sorted(tensors))
        tensor, new = tensors.pop(name), rename(name, draw)
        return save(tensors | ({new: tensor} if new else {}), metadata=case.text)

    return make


def _random(case: Case, draw: random.Random) -> bytes:
    return draw.randbytes(draw.randrange(1, 2 * len(case.payload)))


def _damaged(case: Case, draw: random.Random) -> bytes:
    header, body = _parts(case)
    place = draw.choice([place for place, byte in enumerate(header) if byte != ord(" ")])
    other = draw.choice([byte for byte in range(33, 256) if byte != header[place]])
    return _framed(header[:place] + bytes([other]) + header[place + 1 :], body)


def _added(case: Case, draw: random.Random) -> bytes:
    return save(case.tensors | {f"extra/{draw.random()}": torch.zeros(3)}, metadata=case.text)


def _signed_for_another(case: Case, _draw: random.Random) -> bytes | None:
    own = f"client/{case.client}"
    names = [name for name in case.tensors if own in name]
    if not names:
        return None
    tensors = {name.replace(own, "client/another"): tensor for name, tensor in case.tensors.items()}
    return save(tensors, metadata=case.text)


def _disagreeing(case: Case, _draw: random.Random) -> bytes | None:
    """One sample more in training than so many epochs have."""
    tensors = case.tensors
    if "metric/samples" not in tensors or tensors["count"].item() < 2:
        return None
    return save(tensors | {"metric/samples": tensors["metric/samples"] + 1}, metadata=case.text)


def _is_count(name: str, _tensor: Tensor) -> bool:
    return name == "count"


def _is_gram(name: str, _tensor: Tensor) -> bool:
    return name.startswith(("diagonal/", "triangle/"))


def _is_matrix(name: str, tensor: Tensor) -> bool:
    return name.startswith("triangle/") and tensor.numel() >= 3


def _indefinite(triangle: Tensor, _draw: random.Random) -> Tensor:
    """The off-diagonal entry of the first two rows larger than both of their diagonals allow."""
    triangle[1] = 2 * (triangle[0] * triangle[2]).sqrt() + 1
    return triangle


def _asymmetric(triangle: Tensor, draw: random.Random) -> Tensor:
    """The whole matrix, whose first row and column differ."""
    square = from_triangle(triangle)
    square[0, draw.randrange(1, len(square))] += 1
    return square


def _reshaped(tensor: Tensor, draw: random.Random) -> Tensor:
    """One dimension more, or where there are any, a row or a number less."""
    changes = [tensor[None], *([tensor[:-1], tensor.flatten()[: tensor.numel() - 1]] if tensor.ndim else [])]
    return draw.choice(changes)


KINDS: Mapping[str, Kind] = {
    "empty": lambda _case, _draw: b"",
    "random bytes": _random,
    "truncated": lambda case, draw: case.payload[: draw.randrange(len(case.payload))],
    "longer than it says": lambda case, draw: case.payload + draw.randbytes(draw.randrange(1, 99)),
    "a damaged header": _damaged,
    "a header longer than the message": lambda case, _draw: (2**40).to_bytes(8, "little") + case.payload[8:],
    "a shape without numbers": lambda _case, _draw: _framed(
        json.dumps({"count": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    ),
    "deep nesting": lambda _case, _draw: _framed(b'{"a":' * 50_000),
    "a header that is a list": _of_header(lambda header: b"[" + header + b"]"),
    "text that is a number": _of_header(lambda header: header.replace(b'"is":"update"', b'"is":12345678')),
    "nan in the header": _of_header(lambda header: header.replace(b'"update"', b"NaN     ")),
    "a name twice": _of_header(lambda header: header.replace(b"{", b'{"count":1,"count":2,', 1)),
    "a text twice": _of_header(lambda header: header.replace(b'"is":"update"', b'"is":"update","is":"update"')),
    "a pickle": lambda _case, _draw: _framed(b"\x80\x04N."),
    "oversized": _of_text(more="x" * 10**6),
    "to another question": _of_text(to="0" * 32),
    "of another client": _of_text(client="another"),
    "of no known kind": _of_text(**{"is": "gift"}),
    "a replay": lambda case, draw: draw.choice(case.elsewhere) if case.elsewhere else None,
    "another's answer": lambda case, draw: draw.choice(case.others) if case.others else None,
    "signed for another": _signed_for_another,
    "no tensors": lambda case, _draw: save({}, metadata=case.text),
    "a missing tensor": _renamed(lambda _name, _draw: None),
    "a renamed tensor": _renamed(lambda name, draw: f"{name}{draw.randrange(10)}"),
    "one tensor more": _added,
    "another shape": _of_tensors(_reshaped),
    "another type": _of_tensors(lambda tensor, draw: tensor.to(draw.choice([torch.float16, torch.int64, torch.bool]))),
    "nan": _of_tensors(_with(math.nan)),
    "infinity": _of_tensors(_with(math.inf)),
    "minus infinity": _of_tensors(_with(-math.inf)),
    "a huge value": _of_tensors(_with(1e30), lambda name, _tensor: name != "metric/loss"),
    "a negative count": _of_tensors(_with(-5.0), _is_count),
    "a count of zero": _of_tensors(_with(0.0), _is_count),
    "a fraction of a count": _of_tensors(lambda tensor, _draw: tensor + 0.5, _is_count),
    "an absurd count": _of_tensors(_with(1e15), _is_count),
    "counts that disagree": _disagreeing,
    "a negative square": _of_tensors(lambda tensor, _draw: -tensor - 1, _is_gram),
    "an inflated gram": _of_tensors(lambda tensor, _draw: tensor * 1e25 + 1e19, _is_gram),
    "an asymmetric gram": _of_tensors(_asymmetric, _is_matrix),
    "an indefinite gram": _of_tensors(_indefinite, _is_matrix),
}
"""Every kind by name."""
