"""Facts and bytes as the content of a file that tells whether it is whole: its SHA-256, a line of JSON, the bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def sealed(facts: Mapping[str, Any], body: bytes) -> bytes:
    """The content of such a file."""
    rest = json.dumps(facts).encode() + b"\n" + body
    return hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def opened(path: Path) -> tuple[Mapping[str, Any], bytes] | None:
    """What was sealed in a file; None where there is none, or where it is damaged or cut off."""
    try:
        digest, _, rest = path.read_bytes().partition(b"\n")
        if hashlib.sha256(rest).hexdigest().encode() != digest:
            return None
        line, _, body = rest.partition(b"\n")
        facts = json.loads(line)
    except (OSError, ValueError, RecursionError):
        return None
    return (facts, body) if isinstance(facts, dict) else None
