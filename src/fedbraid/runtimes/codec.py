"""Messages as bytes: tensors in the safetensors format, with a few words of text beside them.

Every runtime passes through this codec, the in-process one too, so that bytes are real and rounding is the same
everywhere. On the wire floating point is fp32 (declared here, nowhere else); single numbers such as counts keep fp64,
integers stay as they are. Nothing is ever unpickled, and a message above the cap is refused before it is parsed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save

from fedbraid.algebra import Tensors
from fedbraid.errors import RunError


@dataclass(frozen=True)
class Message:
    """What travels: tensors by name, and text by name."""

    tensors: Tensors
    text: Mapping[str, str]


@dataclass(frozen=True)
class Codec:
    """Encodes and decodes messages of at most `limit` bytes."""

    dtype: torch.dtype = torch.float32
    limit: int = 4 * 2**30

    def encode(self, tensors: Tensors, text: Mapping[str, str] | None = None) -> bytes:
        payload = save({key: self._wire(t) for key, t in tensors.items()}, metadata=dict(text) if text else None)
        if len(payload) > self.limit:
            raise RunError(f"a message of {len(payload)} bytes is above the cap of {self.limit}; raise the cap")
        return payload

    def decode(self, payload: bytes) -> Message:
        """`RunError` for a message that is too large or damaged."""
        if len(payload) > self.limit:
            raise RunError(f"refused a message of {len(payload)} bytes: the cap is {self.limit}")
        try:
            tensors = load(payload)  # in an order that differs from call to call
            return Message({key: tensors[key] for key in sorted(tensors)}, _text(payload))
        except Exception as error:  # bytes from outside may break a parser in any way; none of them is our defect
            raise _damaged(payload, error) from error

    def text(self, payload: bytes) -> Mapping[str, str]:
        """The text of a message whose tensors are not needed; `RunError` as for `decode`."""
        if len(payload) > self.limit:
            raise RunError(f"refused a message of {len(payload)} bytes: the cap is {self.limit}")
        try:
            return _text(payload)
        except (ValueError, RecursionError) as error:
            raise _damaged(payload, error) from error

    def on_wire(self, tensor: torch.Tensor) -> torch.dtype:
        """The type of numbers as which this tensor travels."""
        return self.dtype if tensor.is_floating_point() and tensor.ndim > 0 else tensor.dtype

    def _wire(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy, since the format refuses two names for one memory."""
        return tensor.detach().cpu().to(self.on_wire(tensor)).contiguous().clone()


def _text(payload: bytes) -> dict[str, str]:
    """The text beside the tensors: the format's header is a length and a JSON object. `ValueError` for any other."""
    length = int.from_bytes(payload[:8], "little")
    header = json.loads(payload[8 : 8 + length], object_pairs_hook=_once)
    text = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(text, dict) or not all(isinstance(value, str) for value in text.values()):
        raise ValueError("its header is no JSON object with text by name")
    return text


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; parsers differ in which of two equal names they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header holds a name twice")
    return found


def _damaged(payload: bytes, error: Exception) -> RunError:
    told = str(error)
    return RunError(f"refused a damaged message of {len(payload)} bytes: {told[:_TOLD]}{'...' * (len(told) > _TOLD)}")


_TOLD = 200
"""The most letters of a parser's complaint that are passed on: it may repeat what was sent."""
