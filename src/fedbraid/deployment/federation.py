"""A federation as a folder on the server's machine: who takes part, where they meet, which run they compute.

    federation.toml  address, sites, where is evaluated; read anew by all who need it
    config.toml      the run as it begins; the run folder holds what has become of it
    run/             the run folder (see `runs`)
    certificates/    of the federation's own authority, and the server's
    keys/            the public keys of the sites
    sites/           for each site a folder with everything that its host needs (see `site`)
    app/             the Flower app, one file that names the installed modules
    flwr/            Flower's home: connections and its own copies of apps
    link.sqlite      what Flower's server knows of nodes, kept over restarts
    processes/, logs/

All of it is readable by its owner alone. A site may have any name, so files and folders of sites, and their nodes at
Flower, are named by `file_name`; true names are in `federation.toml` and `site.toml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from fedbraid import naming
from fedbraid.deployment.toml import Table, read_checked, write_table
from fedbraid.errors import UserError
from fedbraid.naming import file_name

FILE = "federation.toml"


class Terms(Table):
    """What `federation.toml` holds."""

    address: str
    sites: list[str] = Field(min_length=1)
    evaluate: Literal["server", "sites"] = "server"
    """Where test samples are: at the server, or at every site, whose counts are summed."""
    wait: float = Field(default=60.0, ge=0)
    """Seconds that a run waits for nodes before it begins without them."""
    insecure: bool = False
    """Without TLS and without node keys: for a network that nobody else can reach."""


@dataclass(frozen=True)
class Federation:
    """A federation's folder with its terms."""

    folder: Path
    terms: Terms

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def certificates(self) -> Path:
        return self.folder / "certificates"

    @property
    def home(self) -> Path:
        return self.folder / "flwr"

    @property
    def app(self) -> Path:
        return self.folder / "app"

    @property
    def database(self) -> Path:
        return self.folder / "link.sqlite"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def sites(self) -> Path:
        return self.folder / "sites"

    @property
    def processes(self) -> Path:
        return self.folder / "processes"

    @property
    def computing(self) -> Path:
        """Which process computes the run."""
        return self.processes / "app.json"

    @property
    def seen(self) -> Path:
        """Who was there when the server's supervisor last looked."""
        return self.processes / "seen.json"

    @property
    def checked(self) -> Path:
        """What the sites said that they would refuse, when a run was last about to begin."""
        return self.folder / "checked.json"

    @property
    def asked(self) -> Path:
        """When somebody last read that."""
        return self.processes / "asked"

    @property
    def host(self) -> str:
        return split_address(self.terms.address)[0]

    @property
    def port(self) -> int:
        return split_address(self.terms.address)[1]

    def key(self, site: str) -> Path:
        """The public key of a site."""
        return self.folder / "keys" / f"{file_name(site)}.pub"

    def site(self, name: str) -> Path:
        """The folder of a site, which may have been taken to its own host."""
        return self.sites / file_name(name)

    def log(self, site: str) -> Path:
        """What the supervisor of a site that runs here has to say: apart, since a site may be called `server`."""
        return self.logs / "sites" / f"{file_name(site)}.log"

    def write(self) -> None:
        """Writes the terms down."""
        write_table(self.folder / FILE, self.terms)


def read(folder: Path) -> Federation:
    """The federation of a folder; `UserError` where there is none, or its terms are wrong."""
    if not (folder / FILE).is_file():
        raise UserError(f"{folder} holds no federation (no {FILE}); make one with 'fedbraid deploy init {folder}'")
    terms = read_checked(folder / FILE, Terms)
    split_address(terms.address)
    for name in terms.sites:
        check_name(name)
    return Federation(folder.resolve(), terms)


def split_address(address: str) -> tuple[str, int]:
    """Host and port; `UserError` where it is no such pair.

    >>> split_address("fed.example.org:9092"), split_address("[::1]:9092")
    (('fed.example.org', 9092), ('::1', 9092))
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"address {address!r} is no host:port; write for example 127.0.0.1:9092")
    return host.strip("[]"), int(port)


def check_name(name: str) -> str:
    """The name of a site, which is its client's id; `UserError` where it cannot be one."""
    return naming.check_name(name, "a site cannot be called so:", f"a name has 1 to {naming.LONGEST} visible letters")
