"""A Flower user's way in: `flwr run` on a SuperLink that is there, the settings of the run in Flower's run config.

A run config is flat: texts, numbers and truth values by names with dots. Names that begin with `federation.` say where
the server keeps what is its own and who takes part; `config` may name a file or a recipe, and `set` further settings;
all other names are settings as `--set` takes them, lists written as text.

The folder is kept by the server, and the same app run again goes on with the run in it. Without `federation.sites` the
nodes are those of Flower's simulation, and clients come from the configuration's partition.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fedbraid import config as configs
from fedbraid import preflight, runs
from fedbraid.checkpoint import write_durably
from fedbraid.config import Config
from fedbraid.deployment import serving
from fedbraid.deployment.federation import Federation, Terms
from fedbraid.deployment.making import check_sites, deployed
from fedbraid.deployment.owning import owner_alone
from fedbraid.deployment.toml import Table, checked
from fedbraid.errors import UserError
from fedbraid.experiment import Experiment
from fedbraid.runs import Run
from fedbraid.runtimes.flower import OverGrid

if TYPE_CHECKING:
    from flwr.app import UserConfig
    from flwr.serverapp import Grid

OWN = "federation."


class Place(Table):
    """The values of names that begin with `federation.`."""

    folder: str = Field(min_length=1)
    sites: str = ""
    """The sites' names with blanks between, quoted as in a shell; empty in a simulation."""
    evaluate: Literal["server", "sites"] = "server"
    wait: float = Field(default=60.0, ge=0)
    insecure: bool = False
    """Nodes say themselves who they are. Otherwise each is the site of the name that it was registered by."""


@owner_alone()
def serve(grid: Grid, run_config: UserConfig) -> None:
    """The run that a run config describes: begun, continued, or given more tasks; `UserError` for what does not fit."""
    place = _place(run_config)
    sites = _words(place.sites, "federation.sites")
    check_sites(sites)
    terms = Terms.model_construct(sites=sites, evaluate=place.evaluate, wait=place.wait, insecure=place.insecure)
    federation = Federation(_absolute(place.folder), terms)
    config = configs.read(str(run_config.get("config", "")), _settings(run_config))
    _prepare(federation, deployed(config, sites) if sites else config)
    serving.serve(grid, federation, ready=serving.of_sites if sites else simulated)


def run_folder(run_config: UserConfig) -> Path:
    """The folder of the run that a run config describes."""
    return Federation(_absolute(_place(run_config).folder), Terms.model_construct()).run


def simulated(grid: Grid, federation: Federation) -> Run:
    """The run over the nodes of a simulation that Flower has started, each a client of the run folder's partition."""

    def connect(experiment: Experiment) -> OverGrid:
        nodes, clients = len(list(grid.get_node_ids())), len(experiment.clients)
        if nodes < clients:
            raise UserError(
                f"the partition has {clients} clients and the simulation {nodes} SuperNodes; run it with "
                f"--federation-config 'num-supernodes={clients}'"
            )
        transport = OverGrid(serving.Open(grid), list(experiment.clients), experiment.here())
        transport.connect()
        return transport

    if (federation.run / "config.toml").is_file():
        return runs.resume(federation.run, connect=connect)
    run = runs.start(configs.read(str(federation.config)), federation.run, connect=connect)
    preflight.check(run.experiment.guarded(federation.run))
    return run


def _prepare(federation: Federation, wanted: Config) -> None:
    """Writes the configuration down where the run has not begun; lays more tasks behind one that has."""
    if (federation.run / "config.toml").is_file():
        changes = _changes(configs.read(str(federation.config)), wanted)
        if changes:
            serving.await_folder(federation.run)
            runs.extend(federation.run, changes)
    try:
        federation.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(f"federation.folder: cannot make {federation.folder}: {error.strerror}") from error
    write_durably(federation.config, configs.to_toml(wanted).encode())


def _changes(before: Config, wanted: Config) -> list[str]:
    """Settings that differ, wherever they were given, as `--set` takes them; who takes part may change apart."""
    old, new = before.model_dump(), wanted.model_dump()
    changed = {
        f"{section}.{key}": value
        for section, table in new.items()
        for key, value in table.items()
        if value != old[section].get(key) and (section, key) != ("partition", "sites")
    }
    gone = [key for key, value in changed.items() if value is None and not key.startswith("stream.")]
    if gone:
        raise UserError(f"{gone[0]} cannot be taken back from a run that has begun; begin another in another folder")
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changed.items() if value is not None]


def _place(run_config: UserConfig) -> Place:
    given = {key.removeprefix(OWN): value for key, value in run_config.items() if key.startswith(OWN)}
    return checked(given, Place, "[tool.flwr.app.config.federation]")


def _settings(run_config: UserConfig) -> list[str]:
    """Settings as `--set` takes them."""
    named = {key: value for key, value in run_config.items() if "." in key and not key.startswith(OWN)}
    odd = sorted(key for key in run_config if "." not in key and key not in ("config", "set"))
    if odd:
        raise UserError(f"[tool.flwr.app.config]: {', '.join(odd)}: unknown; settings have a section, as method.name")
    given = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in named.items()]
    return [*given, *_words(str(run_config.get("set", "")), "set")]


def _words(text: str, key: str) -> list[str]:
    """Words with blanks between; a shell's quotes hold together one that has blanks or quotes in it."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"[tool.flwr.app.config]: {key} = {text!r}: {str(error).lower()}") from None


def _absolute(folder: str) -> Path:
    """A folder; `UserError` for one that depends on where Flower happened to start the process."""
    path = Path(folder).expanduser()
    if not path.is_absolute():
        raise UserError(f"federation.folder = {folder!r}: must be a whole path, since Flower chooses where apps start")
    return path.resolve()
