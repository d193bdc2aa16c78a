"""Facts and bytes as the content of a file that tells whether it is whole: its SHA-256, a line of JSON, the bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def sealed(facts: Mapping[str, Any], body: bytes) -> bytes:
    """The content of such a file."""
    line = json.dumps(facts).encode()
    digest = hashlib.sha256(line + b"\n")
    digest.update(body)
    return b"\n".join([digest.hexdigest().encode(), line, body])


def opened(path: Path) -> tuple[Mapping[str, Any], bytes] | None:
    """What was sealed in a file; None where there is none, or where it is damaged or cut off."""
    try:
        content = path.read_bytes()
        begin = content.find(b"\n") + 1
        if hashlib.sha256(memoryview(content)[begin:]).hexdigest().encode() + b"\n" != content[:begin]:
            return None
        end = content.find(b"\n", begin)
        facts, body = json.loads(content[begin:end]), content[end + 1 :]
    except (OSError, ValueError, RecursionError):
        return None
    return (facts, body) if isinstance(facts, dict) else None
