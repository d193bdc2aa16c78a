"""fedbraid: federated, continual fine-tuning of pre-trained models.

Each client turns its update into a statistic, statistics add, the server solves the sum.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from fedbraid.version import __version__

if TYPE_CHECKING:
    from fedbraid.config import Config, parse
    from fedbraid.engine import run
    from fedbraid.experiment import Experiment, build
    from fedbraid.merging import merge
    from fedbraid.methods import METHODS

__all__ = ["METHODS", "Config", "Experiment", "__version__", "build", "merge", "parse", "run"]

_HOMES = {
    "Config": "config",
    "parse": "config",
    "run": "engine",
    "Experiment": "experiment",
    "build": "experiment",
    "merge": "merging",
    "METHODS": "methods",
}


def __getattr__(name: str) -> object:
    """Public names are imported when they are asked for: `import fedbraid` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedbraid' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fedbraid.{_HOMES[name]}"), name)
