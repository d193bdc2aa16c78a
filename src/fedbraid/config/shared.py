"""What is one for all parties of a run: the keys of a configuration that a server may set for its sites.

Everything else is for whoever holds the data to say: where samples are and how they are read, where models lie, what
may leave. How a backbone is called is shared, where it lies is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedbraid.data import DATASETS

OF_ALL = frozenset({"classes", "scores", "augment", "match"})
"""Keys of [data] that are one for all sites, and so never a site's own."""
MAY_SET: Mapping[str, frozenset[str] | None] = {
    "method": None,
    "data": OF_ALL | {"name", "train_per_class", "train_samples"},
    "stream": None,
    "partition": frozenset({"kind", "sites", "clients_per_round"}),
    "backbone": None,
    "adapter": None,
    "training": None,
    "generation": None,
    "privacy": frozenset({"epsilon", "delta", "samples", "clip", "noise", "clip_grams", "noise_grams"}),
    "secure": frozenset({"masked"}),
    "run": frozenset({"seed", "threads"}),
}
"""By section the keys that a server may set for a site; None for all of a section."""


def may_set(section: str, key: str) -> bool:
    """Whether a server may set this key for a site."""
    keys = MAY_SET.get(section, frozenset[str]())
    return keys is None or key in keys


def shared(config: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The part of a configuration that is one for all parties, paths taken out."""
    found = {
        section: {key: value for key, value in table.items() if may_set(section, key)}
        for section, table in config.items()
        if section in MAY_SET
    }
    if "name" in found.get("backbone", {}):
        found["backbone"]["name"] = label_of(str(found["backbone"]["name"]))
    if found.get("data", {}).get("name") not in DATASETS:
        found.get("data", {}).pop("name", None)
    return found


def shared_terms(config: Mapping[str, Mapping[str, Any]]) -> str:
    """The shared part as one text, the same at all parties: what the updates of them all follow from."""
    return json.dumps(shared(config), sort_keys=True)


def label_of(backbone: str) -> str:
    """What all call a backbone: its hub id, or the last part of a path, which is nobody else's to know.

    >>> label_of("sentence-transformers/all-MiniLM-L6-v2"), label_of("/models/minilm"), label_of("timm:vit@/m/vit.st")
    ('sentence-transformers/all-MiniLM-L6-v2', 'minilm', 'timm:vit@vit.st')
    """
    architecture, at, file = backbone.partition("@")
    if backbone.startswith("timm:"):
        return f"{architecture}{at}{Path(file).name}"
    return Path(backbone).name if Path(backbone).is_absolute() else backbone
