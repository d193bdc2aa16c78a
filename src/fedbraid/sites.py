"""Parties as Flower's client apps, each with its own folder, and a simulation of many on one machine.

A site answers two kinds of message: a greeting, with the name of its client, and a question (see `runtimes.exchange`).
The first of a process builds model and data from the run's configuration; later ones find them there.

In a simulation every node is a client of the run folder's partition, and its holdings lie in `clients/<client>/`. Ray
computes several at once, one core each, in processes of its own. So numbers are those of the in-process runtime.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from functools import cache
from pathlib import Path
from queue import Empty, Queue
from typing import TYPE_CHECKING

from fedbraid import config as configs
from fedbraid.core import ClientId
from fedbraid.errors import RunError, UserError
from fedbraid.experiment import Experiment, build
from fedbraid.naming import file_name
from fedbraid.progress import shown_on
from fedbraid.runtimes.flower import OverGrid, replied, unpack
from fedbraid.runtimes.holdings import Holdings
from fedbraid.runtimes.replying import reply_to

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid

START = 300.0
"""Seconds that a simulation may take to start."""


def simulated_app(folder: str) -> ClientApp:
    """The client app of a simulated run: node i is the i-th client of the folder's partition."""
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.query()
    def greet(message: Message, context: Context) -> Message:
        return replied(message, lambda: json.dumps({"client": _client(folder, context)}).encode())

    @app.train()
    def work(message: Message, context: Context) -> Message:
        return replied(message, lambda: _answered(folder, _client(folder, context), unpack(message)))

    return app


class Simulation:
    """Flower's simulation of a run, in a thread of its own: open it for the grid of its nodes."""

    def __init__(self, folder: Path, clients: int, *, at_once: int | None, threads: int, accelerator: bool) -> None:
        self._folder = folder
        self._nodes = clients
        cores = os.cpu_count() or 1
        self._at_once = min(clients, at_once or max(1, cores // threads))
        self._accelerator = accelerator
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

        share = 1.0 / self._at_once if self._accelerator else 0.0
        try:
            run_simulation(
                server_app=server,
                client_app=simulated_app(str(self._folder.resolve())),
                num_supernodes=self._nodes,
                backend_config={
                    "client_resources": {"num_cpus": 1, "num_gpus": share},
                    "init_args": {"num_cpus": self._at_once, "log_to_driver": False, "logging_level": "ERROR"},
                },
            )
        except BaseException as error:  # it is told by the thread that waits for the grid
            self._errors.append(error)


def simulation(folder: Path, experiment: Experiment) -> OverGrid:
    """The transport of a simulated run whose folder holds configuration and partition, its nodes started."""
    require_flower()
    config = experiment.config
    opened = Simulation(
        folder,
        len(experiment.clients),
        at_once=config.run.at_once,
        threads=config.run.threads or 1,
        accelerator=experiment.model.device.type == "cuda",
    )
    transport = OverGrid(opened, list(experiment.clients), experiment.here())
    try:
        transport.connect()
    except BaseException:
        transport.close()
        raise
    return transport


def require_flower() -> None:
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


def _client(folder: str, context: Context) -> ClientId:
    clients = json.loads((Path(folder) / "partition.json").read_text())["clients"]
    return sorted(clients)[int(context.node_config["partition-id"])]


def _answered(folder: str, client: ClientId, question: bytes) -> bytes:
    home = Path(folder) / "clients" / file_name(client)
    experiment = _experiment(folder).guarded(home, alone=True)
    with shown_on(None):
        return reply_to(question, experiment.work, client, experiment.clients[client], Holdings(home), home=home)


@cache
def _experiment(folder: str) -> Experiment:
    """The run of a folder as its sites see it, built once a process."""
    config = configs.read(str(Path(folder) / "config.toml"))
    return build(config, partition_file=Path(folder) / "partition.json")
