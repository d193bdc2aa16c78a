"""The Flower app: what `[tool.flwr.app.components]` names.

Its code is the installed package; an app's folder holds settings alone. Where `fedbraid deploy` started the process, an
environment variable tells whose it is: the server's federation or a site's folder. Where Flower did, the server's
settings are the run config (see `run_config`), and a SuperNode was told its site's folder by `--node-config`. In a
simulation nodes are told a number alone, and are the clients of the server's run folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedbraid.deployment import faults, federation, run_config, serving
from fedbraid.deployment.answering import Answering
from fedbraid.deployment.environment import FEDERATION, SITE
from fedbraid.deployment.site import read_site
from fedbraid.errors import RunError
from fedbraid.runtimes.envelope import coded, replied, unpack, whole
from fedbraid.sites import Simulated, node_number

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """The run of the federation that this process was started for."""
    folder = os.environ.get(FEDERATION)
    if folder:
        serving.serve(grid, federation.read(Path(folder)))
    else:
        run_config.serve(grid, context.run_config)


@client.query()
def greet(message: Message, context: Context) -> Message:
    """The site's name."""
    return replied(message, lambda: _party(context).greet(unpack(message)), lambda error: _fault(error, context))


@client.train()
def work(message: Message, context: Context) -> Message:
    """The site's answer."""
    return replied(message, lambda: _party(context).answer(unpack(message)), lambda error: _fault(error, context))


@client.evaluate()
def check(message: Message, context: Context) -> Message:
    """The site's refusals of the run, said before it begins; clients of a simulation are not asked."""
    return replied(message, lambda: _site(_folder(context)).check(), lambda error: _fault(error, context))


def _party(context: Context) -> Answering | Simulated:
    if _told(context) is None and "partition-id" in context.node_config:
        return Simulated(run_config.run_folder(context.run_config), node_number(context))
    return _site(_folder(context))


@cache
def _site(folder: Path) -> Answering:
    return Answering(read_site(folder))


def _folder(context: Context) -> Path:
    told = _told(context)
    if told is None:
        raise RunError(
            "this node does not know its site: start it with 'fedbraid deploy site', or give flower-supernode "
            "--node-config 'site=\"/path/of/the/site\"'"
        )
    return Path(told)


def _told(context: Context) -> str | None:
    """The site's folder, by whoever started its process."""
    return os.environ.get(SITE) or str(context.node_config.get("site") or "") or None


def _fault(error: Exception, context: Context) -> Mapping[str, str | int]:
    """The code of an error, whose sentence stays at the site; a node that is no site has nothing to keep."""
    told = _told(context)
    return whole(error) if told is None else coded(*faults.keep(Path(told), error))
