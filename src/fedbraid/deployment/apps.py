"""The Flower app of a federation: what `app/pyproject.toml` names.

Neither side runs code that was sent to it: the server's app finds its federation, a site's app its own folder, in
environment variables that their supervisors set, and everything else is the installed package.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedbraid.deployment import faults, federation, serving
from fedbraid.deployment.answering import Answering
from fedbraid.deployment.environment import FEDERATION, SITE
from fedbraid.deployment.site import read_site
from fedbraid.errors import RunError
from fedbraid.runtimes.flower import coded, replied, unpack

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:  # noqa: ARG001
    """The run of the federation that this process was started for."""
    serving.serve(grid, federation.read(_folder(FEDERATION)))


@client.query()
def greet(message: Message, context: Context) -> Message:  # noqa: ARG001
    """The site's name."""
    return replied(message, lambda: _site().greet(unpack(message)), _fault)


@client.train()
def work(message: Message, context: Context) -> Message:  # noqa: ARG001
    """The site's answer."""
    return replied(message, lambda: _site().answer(unpack(message)), _fault)


@client.evaluate()
def check(message: Message, context: Context) -> Message:  # noqa: ARG001
    """What the site would refuse of the run."""
    return replied(message, _site().check, _fault)


def _fault(error: Exception) -> Mapping[str, str | int]:
    """The code of an error, whose sentence stays here."""
    return coded(*faults.keep(_folder(SITE), error))


@cache
def _site() -> Answering:
    return Answering(read_site(_folder(SITE)))


def _folder(variable: str) -> Path:
    try:
        return Path(os.environ[variable])
    except KeyError:
        raise RunError(f"{variable} is not set; start servers and sites with 'fedbraid deploy'") from None
