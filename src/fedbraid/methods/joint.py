"""Joint training: all tasks at once, all data in one place. The upper bound of a table, not a federated method.

One client holds all training data and trains on all classes for as many epochs as a federated client would: rounds x
epochs passes over the data. Accuracy is reported by task all the same.
Travels up: nothing that matters; there is one client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedbraid.core import Method
from fedbraid.methods.base import About, Options, Setting
from fedbraid.methods.fedavg import averaging, carried


@dataclass(frozen=True)
class Joint(Options):
    """Joint training has no options of its own."""

    about: ClassVar[About] = About(
        name="joint",
        title="Joint training",
        family="bound",
        citation="the usual upper bound",
        travels="nothing: one client holds all data",
        adapters=("lora", "full", "none"),
        modalities=("image", "text", "language"),
        numbers=True,
        centralised=True,
    )

    def build(self, setting: Setting) -> Method:
        """FedAvg with one client, whose mean is that client."""
        return carried(self.about.name, setting, {"train": averaging(setting)})
