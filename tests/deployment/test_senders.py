"""A node answers in its own name alone, whatever it knows of others."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest

pytest.importorskip("flwr", reason="the extra 'flower' is not installed")

from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata
from flwr.proto.node_pb2 import Node

from fedbraid.deployment.senders import PUSH, OwnNameAlone


def pushed(*names: int) -> bytes:
    """An announcement by node 7 of answers in these names."""
    messages = [Message(metadata=Metadata(src_node_id=name)) for name in names]
    return PushMessagesRequest(node=Node(node_id=7), messages_list=messages).SerializeToString()


def answered(path: str, parts: Sequence[bytes]) -> tuple[list[int], list[bytes]]:
    """(statuses, bodies that reached Flower) of a request whose body comes in these parts."""
    coming = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    coming.append({"type": "http.request"})
    statuses: list[int] = []
    bodies: list[bytes] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        whole, more = b"", True
        while more:
            part = await receive()
            whole, more = whole + part.get("body", b""), part.get("more_body", False)
        bodies.append(whole)
        await send({"type": "http.response.start", "status": 200})

    async def receive() -> MutableMapping[str, Any]:
        return coming.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        if "status" in message:
            statuses.append(message["status"])

    asyncio.run(OwnNameAlone(app)({"type": "http", "path": path}, receive, send))
    return statuses, bodies


@pytest.mark.parametrize("body", [pushed(7), pushed(), pushed(7, 7), b"\xff no such message"])
def test_what_is_a_nodes_own_reaches_flower_as_it_came(body: bytes) -> None:
    assert answered(PUSH, [body[:3], body[3:]]) == ([200], [body])


@pytest.mark.parametrize("names", [(8,), (7, 8)])
def test_an_answer_in_anothers_name_is_refused_by_name(
    names: Sequence[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert answered(PUSH, [pushed(*names)]) == ([403], [])
    assert "node 7 answers in another's name, that of node 8" in capsys.readouterr().out
    assert answered("/v1/fleet/pull-messages", [pushed(*names)]) == ([200], [pushed(*names)])


def test_a_request_without_end_is_not_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fedbraid.deployment.senders.CAP", 10)
    assert answered(PUSH, [pushed(7), bytes(11), bytes(11)]) == ([413], [])
    assert "more bytes than are read" in capsys.readouterr().out
