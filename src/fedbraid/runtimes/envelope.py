"""Bytes as Flower's messages: one array of bytes, or in its place why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fedbraid.errors import RunError, UserError
from fedbraid.runtimes.faults import sentence

if TYPE_CHECKING:
    from flwr.app import Message

Fault = Callable[[Exception], Mapping[str, str | int]]
"""What leaves a site in the place of an answer, by the error that kept it from giving one."""


def whole(error: Exception) -> Mapping[str, str | int]:
    """The sentence of an error, for sites on the server's own machine."""
    told = str(error) if isinstance(error, RunError | UserError) else f"{type(error).__name__}: {error}"
    return {"reason": told}


def coded(code: str, needed: int | None) -> Mapping[str, str | int]:
    """The code of an error, for sites on machines of their own (see `runtimes.faults`)."""
    return {"code": code, **({} if needed is None else {"needed": needed})}


def replied(message: Message, compute: Callable[[], bytes], fault: Fault = whole) -> Message:
    """The reply of a site: what is computed, or why it cannot be.

    An error that leaves a client app would spoil its process in a simulation, and stall its node in a deployment; the
    server must learn of it, and the process must go on.
    """
    from flwr.app import Message

    try:
        content = pack(compute())
    except Exception as error:  # whatever it is
        content = pack_fault(fault(error))
    return Message(content, reply_to=message)


def pack(payload: bytes):
    """The content of a message."""
    from flwr.app import Array, ArrayRecord, RecordDict

    return RecordDict({"fedbraid": ArrayRecord({"message": Array("uint8", (len(payload),), "bytes", payload)})})


def pack_fault(told: Mapping[str, str | int]):
    """The content of a message that tells why there is no answer."""
    from flwr.app import ConfigRecord, RecordDict

    return RecordDict({"fault": ConfigRecord(dict(told))})


def unpack(message: Message) -> bytes:
    """The bytes of a message; `RunError` where it is none of ours, or tells of an error or a fault."""
    from flwr.app import ArrayRecord, ConfigRecord

    if message.has_error():
        reason = str(message.error.reason).strip().splitlines() or [""]
        raise RunError(f"its node failed (code {message.error.code}): {reason[-1][:300]}")
    told = message.content.get("fault")
    if isinstance(told, ConfigRecord):
        raise _of_code(told)
    record = message.content.get("fedbraid")
    array = record.get("message") if isinstance(record, ArrayRecord) else None
    if array is None:
        raise RunError("its reply holds no message of this library; run one version everywhere")
    return array.data


def _of_code(told: Mapping[str, Any]) -> RunError:
    """Why there is no answer: a sentence of our own for a code, since whoever sends is not believed."""
    if "code" not in told:
        return RunError(str(told.get("reason", ""))[:1000])
    code, needed = str(told["code"])[:100], told.get("needed")
    return RunError(sentence(code, needed if isinstance(needed, int) else None), code=code)
