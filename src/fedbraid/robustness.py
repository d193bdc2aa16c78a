"""Robust mode of a run, from its configuration: the limits, what it cannot be used with, what must be known before."""

from __future__ import annotations

from collections.abc import Sequence

from fedbraid.config import Config
from fedbraid.errors import UserError
from fedbraid.runtimes.robust import FEWEST, Thresholds


def thresholds(config: Config) -> Thresholds | None:
    """The limits of robust mode; None where it is off."""
    values = config.robust.model_dump()
    return Thresholds(**values) if values.pop("select") else None


def check_settings(config: Config) -> None:
    """`UserError` where updates cannot be compared."""
    if not config.robust.select:
        return
    if config.secure.masked:
        raise UserError(
            "robust.select compares the updates of single clients, and secure.masked hides them from the server: "
            "choose one of both"
        )
    if not config.gate.check:
        raise UserError("robust.select compares updates that have passed the gate: set gate.check = true")


def notes(config: Config, clients: int) -> Sequence[str]:
    """What must be known before a run of so many clients."""
    count = config.partition.clients_per_round or clients
    if not config.robust.select or count >= FEWEST:
        return ()
    return (
        f"robust.select refuses nobody here: it compares {FEWEST} updates or more, and a round has {count} of them",
    )
