"""Parties as Flower's client apps, each with its own folder, and a simulation of many on one machine.

A site answers two kinds of message: a greeting, with the name of its client, and a question (see `runtimes.exchange`).
The first of a process builds model and data from the run's configuration; later ones find them there.

In a simulation every node is a client of the run folder's partition, and its holdings lie in `clients/<client>/`. Ray
computes several at once, one core and a share of an accelerator each, in processes of its own. So numbers are those of
the in-process runtime.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING, Any

import torch

from fedbraid import config as configs
from fedbraid.config import Config
from fedbraid.core import ClientId
from fedbraid.errors import RunError, UserError
from fedbraid.experiment import Experiment, build, device
from fedbraid.naming import file_name
from fedbraid.progress import shown_on
from fedbraid.runtimes.envelope import replied, unpack
from fedbraid.runtimes.flower import OverGrid
from fedbraid.runtimes.holdings import Holdings
from fedbraid.runtimes.replying import reply_to

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid

START = 300.0
"""Seconds that a simulation may take to start."""
ANSWERS = 10.0
"""Seconds that a cluster may take to answer."""
SHARES = 10_000
"""The smallest part of a device that Ray knows; it rounds up what is not a whole number of them."""


def simulated_app(folder: str) -> ClientApp:
    """The client app of a simulated run: node i is the i-th client of the folder's partition."""
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.query()
    def greet(message: Message, context: Context) -> Message:
        return replied(message, Simulated(Path(folder), node_number(context)).greet)

    @app.train()
    def work(message: Message, context: Context) -> Message:
        return replied(message, lambda: Simulated(Path(folder), node_number(context)).answer(unpack(message)))

    return app


def node_number(context: Context) -> int:
    """Which node of a simulation this is, counted from 0."""
    return int(context.node_config["partition-id"])


@dataclass(frozen=True)
class Simulated:
    """The client of a node: of a run folder's partition, by number."""

    folder: Path
    number: int

    def greet(self, _text: bytes = b"") -> bytes:
        """The client's name."""
        return json.dumps({"client": self._client}).encode()

    def answer(self, question: bytes) -> bytes:
        """The client's answer to a question of the server."""
        client = self._client
        home = self.folder / "clients" / file_name(client)
        experiment = _experiment(self.folder).guarded(home, alone=True)
        with shown_on(None):
            return reply_to(question, experiment.work, client, experiment.clients[client], Holdings(home), home=home)

    @property
    def _client(self) -> ClientId:
        clients = sorted(json.loads((self.folder / "partition.json").read_text())["clients"])
        if self.number >= len(clients):
            raise RunError(f"node {self.number} has no client: the partition is over {len(clients)}")
        return clients[self.number]


class Simulation:
    """Flower's simulation of a run, in a thread of its own: open it for the grid of its nodes."""

    def __init__(self, folder: Path, clients: int, backend: Mapping[str, Any]) -> None:
        self._folder = folder
        self._nodes = clients
        self._backend = dict(backend)
        self._grids: Queue[Grid] = Queue()
        self._over = threading.Event()
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="simulation", daemon=True)

    def open(self) -> Grid:
        """Starts it and waits for the grid; `RunError` where it does not start."""
        self._thread.start()
        waited = 0.0
        while waited < START:
            try:
                return self._grids.get(timeout=0.5)
            except Empty:
                waited += 0.5
                if not self._thread.is_alive():
                    break
        self._over.set()  # its thread would live on
        reason = f": {self._errors[0]}" if self._errors else f" within {START:.0f} s"
        raise RunError(f"Flower's simulation did not start{reason}")

    def close(self) -> None:
        """Ends it, and waits until its processes are gone."""
        self._over.set()
        self._thread.join(timeout=60)

    def _run(self) -> None:
        from flwr.serverapp import ServerApp
        from flwr.simulation import run_simulation

        logging.getLogger("flwr").setLevel(logging.CRITICAL + 1)  # what matters comes back as errors
        server = ServerApp()

        @server.main()
        def main(grid: Grid, context: Context) -> None:  # noqa: ARG001
            self._grids.put(grid)
            self._over.wait()

        try:
            run_simulation(
                server_app=server,
                client_app=simulated_app(str(self._folder.resolve())),
                num_supernodes=self._nodes,
                backend_config=self._backend,
            )
        except BaseException as error:  # it is told by the thread that waits for the grid
            self._errors.append(error)


def backend(at_once: int, devices: int = 0, address: str | None = None) -> dict[str, dict[str, Any]]:
    """What Ray is asked for: a core and a share of a device for each of `at_once` clients; a cluster has its own cores.

    Ray fills one device with shares before it takes the next, so a share is as large as leaves room for all.

    >>> [backend(at_once, devices=4)["client_resources"]["num_gpus"] for at_once in (2, 4, 6, 8, 28)]
    [1.0, 1.0, 0.5, 0.5, 0.1428]
    """
    per_device = -(-at_once // devices) if devices else 0
    share = int(SHARES / per_device) / SHARES if per_device else 0.0
    own = {"num_cpus": at_once, "num_gpus": devices} if address is None else {"address": address}
    return {
        "client_resources": {"num_cpus": 1, "num_gpus": share},
        "init_args": {**own, "log_to_driver": False, "logging_level": "ERROR"},
    }


def simulation(folder: Path, experiment: Experiment) -> OverGrid:
    """The transport of a simulated run whose folder holds configuration and partition, its nodes started."""
    _require_flower()
    values, devices = experiment.config.run, _devices(experiment.config)
    at_once = values.at_once or (os.cpu_count() or 1) // (values.threads or 1)
    if values.ray and not values.at_once:
        at_once = devices or len(experiment.clients)  # the cores of this machine are not those of the cluster
    at_once = max(1, min(len(experiment.clients), at_once))
    opened = Simulation(folder, len(experiment.clients), backend(at_once, devices, values.ray))
    transport = OverGrid(opened, list(experiment.clients), experiment.here())
    try:
        transport.connect()
    except BaseException:
        transport.close()
        raise
    return transport


def check_settings(config: Config) -> None:
    """`UserError` where this machine cannot simulate the run: without the extra, or with fewer accelerators."""
    _require_flower()
    if config.run.ray:
        _check_cluster(config.run.ray)
    wanted, here = _devices(config), torch.cuda.device_count()
    if wanted > here and not config.run.ray:
        raise UserError(f"run.gpus = {wanted}, and this machine has {here}; set fewer, or join a cluster with run.ray")


def _check_cluster(address: str) -> None:
    """`UserError` where no cluster answers: Ray itself would try for many minutes, and not be interrupted."""
    place = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    if address == "auto" and not place:
        return  # Ray looks for a cluster of this machine, and says at once where there is none
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"run.ray = {address!r}: {place!r} is no host:port; write for example 10.0.0.1:6379, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWERS).close()
    except OSError as error:
        raise UserError(
            f"run.ray = {address!r}: no Ray cluster answers at {place} ({error}); start one there with "
            f"'ray start --head --port={port}', or give the address of another"
        ) from error


def _require_flower() -> None:
    """`UserError` where the extra is not installed."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns where its future default is not set
    try:
        import flwr  # noqa: F401
        import ray  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"run.runtime = 'flower' needs an extra that is not installed: pip install 'fedbraid[flower]' ({error})"
        ) from error


def _devices(config: Config) -> int:
    """How many accelerators the clients share."""
    if device(config.run.device).type != "cuda":
        return 0
    return config.run.gpus or torch.cuda.device_count()


@cache
def _experiment(folder: Path) -> Experiment:
    """The run of a folder as its sites see it, built once a process."""
    config = configs.read(str(folder / "config.toml"))
    if config.run.device.startswith("cuda:"):  # a process sees the device that Ray gave it, and none by another number
        config = config.model_copy(update={"run": config.run.model_copy(update={"device": "cuda"})})
    return build(config, partition_file=folder / "partition.json")
