"""What recorded exchanges hold: Flower's fields, objects and messages, and in these the messages of this library.

Nothing is taken on trust: a field, a header or a word beside the tensors that is not listed here counts as a leak.
"""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from google.protobuf.message import Message as Fields
from recording_proxy import Exchange, Part

from fedbraid.privacy.guard import Reported
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.exchange import read_round

FLEET = "/v1/fleet/"
HEADERS = {
    "host": "the server's address",
    "accept": "",
    "accept-encoding": "",
    "connection": "",
    "content-length": "",
    "content-type": "",
    "user-agent": "the HTTP library and its version",
    "flwr-package-name": "Flower",
    "flwr-package-version": "its version",
    "flwr-component-name": "that it is a node",
    "flwr-public-key": "whose node it is",
    "flwr-timestamp": "the site's clock",
    "flwr-signature": "of the time, by the node's key",
}
"""The headers of a node's requests, and what they tell."""
FIELDS = {
    "public_key": "whose node it is",
    "heartbeat_interval": "seconds between two signs of life",
    "node.node_id": "the node's number",
    "node_id": "the node's number",
    "run_id": "the number of the Flower run",
    "hash_str": "the app that it asks for",
    "object_id": "a hash of what is sent or asked for",
    "message_object_id": "a hash of what it has received",
    "object_content": "a part of a message, see below",
    "session_id": "a word that the server gave",
    "messages_list.metadata.run_id": "the number of the Flower run",
    "messages_list.metadata.message_id": "a hash of the message",
    "messages_list.metadata.src_node_id": "the node's number",
    "messages_list.metadata.dst_node_id": "the server's number",
    "messages_list.metadata.reply_to_message_id": "a hash of the question",
    "messages_list.metadata.dst_task_id": "a number that the server gave",
    "messages_list.metadata.ttl": "until when it counts",
    "messages_list.metadata.message_type": "greeting, check or work",
    "messages_list.metadata.created_at": "the site's clock",
    "message_object_trees.object_id": "hashes of the message's parts",
    "clientapp_runtime_list": "how long the answer took to compute",
}
"""The fields of a node's requests, whatever their depth in `children`."""
WORDS = {
    "update": {"client", "to", "is"},
    "greeting": {"client"},
    "check": {"refused"},
    "fault": {"code", "needed"},
}
"""The words beside tensors that a site sends, by the kind of its message."""
KINDS = {"train": "update", "query": "greeting", "evaluate": "check"}


def _classes(name: str) -> tuple[type[Fields], type[Fields]]:
    """The request and response of a path's last part, as Flower declares them."""
    plain = "".join(word.capitalize() for word in name.split("-"))
    for module in (fleet_pb2, message_pb2, heartbeat_pb2, run_pb2, fab_pb2):
        if hasattr(module, f"{plain}Request"):
            return getattr(module, f"{plain}Request"), getattr(module, f"{plain}Response")
    raise KeyError(name)


def decoded(exchange: Exchange) -> tuple[Fields, Fields | None]:
    """The request and the response of an exchange; no response where it is an error."""
    request, response = _classes(exchange.up.path.removeprefix(FLEET))
    up = request.FromString(exchange.up.body)
    return up, response.FromString(exchange.down.body) if exchange.down.status == 200 else None


def fields(message: Fields, place: str = "") -> Iterator[str]:
    """The names of all fields that hold something; a tree counts as one level of itself."""
    for descriptor, value in message.ListFields():
        name = place if descriptor.name == "children" else f"{place}{descriptor.name}"
        if descriptor.message_type is None:
            yield name
            continue
        inside = name if descriptor.name == "children" else f"{name}."
        for one in [value] if isinstance(value, Fields) else value:
            yield from fields(one, inside)


@dataclass(frozen=True)
class Told:
    """A message of this library: who sent or received it, its kind, and its bytes; of a fault its words."""

    site: str
    up: bool
    kind: str
    payload: bytes
    fault: Mapping[str, Any]

    @property
    def words(self) -> Mapping[str, Any]:
        """The text beside the tensors, or what a greeting, a check or a fault says."""
        if self.kind == "fault":
            return self.fault
        if self.kind == "update":
            return Codec().text(self.payload)
        return json.loads(self.payload) if self.payload else {}

    @property
    def tensors(self) -> Mapping[str, Any]:
        return Codec().decode(self.payload).tensors if self.kind == "update" else {}

    @property
    def tensor_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


def messages(exchanges: Iterable[Exchange]) -> list[Told]:
    """The messages of this library in both directions, in the order in which they were announced."""
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    contents: dict[str, bytes] = {}
    announced: list[tuple[str, bool, str, str]] = []
    for exchange in exchanges:
        up, down = decoded(exchange)
        if isinstance(up, message_pb2.PushObjectRequest):
            contents[up.object_id] = up.object_content
        if isinstance(down, message_pb2.PullObjectResponse) and isinstance(up, message_pb2.PullObjectRequest):
            contents[up.object_id] = down.object_content
        for source, going in ((up, True), (down, False)):
            for message in getattr(source, "messages_list", ()):
                metadata = message.metadata
                announced.append((exchange.site, going, metadata.message_type, metadata.message_id))
    found = []
    for site, going, kind, name in announced:
        message: Any = inflate_object_from_contents(name, contents, keep_object_contents=True)
        found.append(_told(site, going, kind, message.content))
    return found


def _told(site: str, up: bool, kind: str, content: RecordDict) -> Told:
    record = content.get("fedbraid")
    if isinstance(record, ArrayRecord):
        return Told(site, up, KINDS[kind], record["message"].data, {})
    fault = content["fault"]
    assert isinstance(fault, ConfigRecord)
    return Told(site, up, "fault", b"", dict(fault))


def unlisted(exchanges: Sequence[Exchange], told: Sequence[Told]) -> list[str]:
    """What leaves sites beside tensors and is not listed in this file: headers, fields, words."""
    found = Counter[str]()
    for exchange in exchanges:
        found.update(f"header {name}" for name in exchange.up.headers.keys() - HEADERS.keys())
        found.update(f"field {name}" for name in set(fields(decoded(exchange)[0])) - FIELDS.keys())
    for message in told:
        if message.up:
            found.update(f"word {word} of {message.kind}" for word in message.words.keys() - WORDS[message.kind])
    return [f"{name} ({count} times)" for name, count in sorted(found.items())]


@dataclass(frozen=True)
class Sent:
    """A kind of message that left a site: how often, of how many tensors, the most bytes of one, and those listed."""

    site: str
    phase: str
    parts: str
    times: int
    tensors: int
    bytes: int
    listed: int


def compared(told: Sequence[Told], reports: Mapping[str, Sequence[Reported]]) -> tuple[list[Sent], list[str]]:
    """What left, kind by kind, and where the wire and the sites' files disagree, in either direction.

    A file lists one message of a kind, the worst. So messages are of one kind where they differ in a task's number
    alone, and among those on the wire must be the very one that is listed, with its names and bytes.
    """
    asked = [message.words for message in told if not message.up and message.kind == "update"]
    rounds = {words["to"]: read_round(words["round"]) for words in asked}
    left: dict[_Kind, list[tuple[frozenset[str], int]]] = {}
    for message in told:
        if message.up and message.tensors:
            kind = (message.site, rounds[message.words["to"]].phase, _alike(message.tensors))
            left.setdefault(kind, []).append((frozenset(message.tensors), message.tensor_bytes))
    listed: dict[_Kind, Reported] = {}
    for site, entries in reports.items():
        listed |= {(site, entry["phase"], _alike(_names(entry))): entry for entry in entries}
    wrong = [
        f"{site}: {phase} left, and privacy.json lists none such" for site, phase, _ in left.keys() - listed.keys()
    ]
    wrong += [f"{site}: {phase} is in privacy.json, and left not" for site, phase, _ in listed.keys() - left.keys()]
    rows: list[Sent] = []
    for site, phase, names in sorted(left.keys() & listed.keys(), key=str):
        entry, found = listed[site, phase, names], left[site, phase, names]
        size = sum(part["bytes"] for part in entry["parts"])
        parts = ", ".join(part["kind"] for part in entry["parts"])
        rows.append(Sent(site, phase, parts, len(found), len(names), max(size for _, size in found), size))
        if (frozenset(_names(entry)), size) not in found:
            wrong.append(f"{site}: {phase} has other names or bytes on the wire than in privacy.json")
    return rows, wrong


_Kind = tuple[str, str, tuple[str, ...]]


def _names(entry: Reported) -> list[str]:
    return [name for part in entry["parts"] for name in part["names"]]


def _alike(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(re.sub(r"/\d+$", "/*", name) for name in names))


@dataclass(frozen=True)
class Sizes:
    """Bytes of one direction, in the clear."""

    total: int
    tensors: int
    framing: int
    flower: int
    http: int


def sizes(exchanges: Sequence[Exchange], told: Sequence[Told], *, up: bool) -> Sizes:
    """Of what the bytes of one direction are made; `framing` is what this library adds to its tensors."""
    parts: list[Part] = [exchange.up if up else exchange.down for exchange in exchanges]
    total, bodies = sum(part.size for part in parts), sum(len(part.body) for part in parts)
    payloads = sum(len(message.payload) for message in told if message.up == up)
    tensors = sum(message.tensor_bytes for message in told if message.up == up)
    return Sizes(total, tensors, payloads - tensors, bodies - payloads, total - bodies)


def spellings(word: bytes) -> set[bytes]:
    """How a word may be spelled: as it is, in hexadecimal, in UTF-16, and within base64 at each of its three places."""
    found = {word, word.hex().encode(), word.hex().upper().encode(), word.decode("latin-1").encode("utf-16-le")}
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + word)
        found.add(whole[(4 * before + 2) // 3 + (before > 0) : len(whole) // 4 * 4 - 4])
    return {one for one in found if len(one) >= min(len(word), 8)}


def everything(exchanges: Iterable[Exchange], told: Iterable[Told]) -> Iterator[bytes]:
    """All bytes that passed: as recorded, without Flower's cuts, and unpacked where they are packed."""
    for exchange in exchanges:
        for part in (exchange.up, exchange.down):
            yield part.bytes()
            yield from _unpacked(part.body)
        up, down = decoded(exchange)
        for value in (getattr(up, "object_content", b""), getattr(down, "object_content", b"")):
            yield from _unpacked(value)
        if isinstance(down, fab_pb2.GetFabResponse):
            yield from _unpacked(down.fab.content)
    for message in told:
        yield message.payload


def _unpacked(body: bytes) -> Iterator[bytes]:
    if zipfile.is_zipfile(io.BytesIO(body)):
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    for form in (zlib.MAX_WBITS, zlib.MAX_WBITS | 16):
        try:
            yield zlib.decompressobj(form).decompress(body)
        except zlib.error:
            continue


def hits(sought: Mapping[str, bytes], places: Iterable[bytes]) -> Counter[str]:
    """How often each of these is found in any spelling, whatever the case of letters."""
    spelled = {name: {one.lower() for one in spellings(value)} for name, value in sought.items()}
    found = Counter[str]()
    for place in places:
        low = place.lower()
        found.update(name for name, ways in spelled.items() if any(way in low for way in ways))
    return found
