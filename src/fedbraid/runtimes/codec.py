"""Messages as bytes: tensors in the safetensors format, with a few words of text beside them.

Every runtime passes through this codec, the in-process one too, so that bytes are real and rounding is the same
everywhere. On the wire floating point is fp32 (declared here, nowhere else); single numbers such as counts keep fp64,
integers stay as they are. Nothing is ever unpickled, and a message above the cap is refused before it is parsed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
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
        except (SafetensorError, ValueError, KeyError) as error:
            raise RunError(f"refused a damaged message of {len(payload)} bytes: {error}") from error

    def text(self, payload: bytes) -> Mapping[str, str]:
        """The text of a message whose tensors are not needed; `RunError` as for `decode`."""
        if len(payload) > self.limit:
            raise RunError(f"refused a message of {len(payload)} bytes: the cap is {self.limit}")
        try:
            return _text(payload)
        except ValueError as error:
            raise RunError(f"refused a damaged message of {len(payload)} bytes: {error}") from error

    def _wire(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy, since the format refuses two names for one memory."""
        floats = tensor.is_floating_point() and tensor.ndim > 0
        return tensor.detach().cpu().to(self.dtype if floats else tensor.dtype).contiguous().clone()


def _text(payload: bytes) -> dict[str, str]:
    """The text beside the tensors: the format's header is a length and a JSON object."""
    length = int.from_bytes(payload[:8], "little")
    return json.loads(payload[8 : 8 + length]).get("__metadata__", {})
