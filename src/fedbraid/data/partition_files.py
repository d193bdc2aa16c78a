"""A partition as a file: a run writes it down, another run reads it, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

from fedbraid.data.partition import EVALUATOR, Partition, check_clients
from fedbraid.errors import UserError

FORMAT = "fedbraid-partition-1"


def partition_text(partition: Partition) -> str:
    """The partition as the text of a file."""
    content = {
        "format": FORMAT,
        "kind": partition.kind,
        "fingerprint": partition.fingerprint,
        "samples": partition.samples,
        "clients": partition.clients,
    }
    return json.dumps(content) + "\n"


def load_partition(path: str | Path, fingerprint: str) -> Partition:
    """The partition of the data set with this fingerprint; an error if it is damaged or another's."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"the partition file {path} cannot be read: {error}") from error
    partition = _partition(path, content)
    if partition.fingerprint != fingerprint:
        raise UserError(
            f"{path} partitions another data set (fingerprint {partition.fingerprint[:12]}, this one has "
            f"{fingerprint[:12]}); load the data with the same data.* settings, or draw a new partition"
        )
    owner: dict[int, str] = {}
    for client, indices in partition.clients.items():
        for index in indices:
            if not 0 <= index < partition.samples:
                raise UserError(f"{path}: client {client} holds sample {index} of {partition.samples}; draw it anew")
            if index in owner:
                raise UserError(
                    f"{path}: sample {index} is owned by client {owner[index]} and by client {client}; "
                    "a sample has one owner"
                )
            owner[index] = client
    return partition


def _partition(path: Path, content: object) -> Partition:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a partition file (expected the format {FORMAT!r})")
    match content:
        case {
            "kind": str(kind),
            "fingerprint": str(fingerprint),
            "samples": int(samples),
            "clients": dict(clients),
        } if clients and EVALUATOR not in clients and all(map(_are_indices, clients.values())):
            check_clients(clients, str(path))
            shares = {client: tuple(sorted(indices)) for client, indices in clients.items()}
            return Partition(kind, fingerprint, samples, shares)
    raise UserError(
        f"the partition file {path} is damaged: it needs kind, fingerprint, samples and clients, each "
        f"client with a list of sample numbers and none called {EVALUATOR!r}; draw the partition anew"
    )


def _are_indices(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(type(index) is int for index in value)
