"""A site: one folder on its host, with all that is needed to take part and nothing of the others.

    site.toml        who it is, where the server is, where its data lie; what it allows the server
    ca.crt           whom it trusts to be the server
    node.key         by which the server knows it; readable by its owner alone
    identity.key     by which the other sites know it in masked sums, where these are signed
    run.json         the run's configuration as the server sent it last
    opened-sums      which masked sums it has opened, and with whom, in all runs
    holdings/RUN/    what it holds between two questions (see `runtimes.holdings`)
    privacy.json     what has left it (see `privacy.guard`)
    flwr/, logs/     what Flower writes

A site calls the server and is called by nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fedbraid.config.shared import OF_ALL
from fedbraid.deployment.federation import check_name, split_address
from fedbraid.deployment.keys import AUTHORITY, check_private
from fedbraid.deployment.toml import Table, read_checked
from fedbraid.errors import UserError

FILE, NODE_KEY = "site.toml", "node.key"


class OwnMachine(Table):
    """How this site computes."""

    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    """The most that a server may ask for; unset: the cores that there are."""


class OwnMasking(Table):
    """What this site asks of masked sums, whatever the server says (see `docs/masked.md`)."""

    threshold: int | None = Field(default=None, ge=3)
    identities: dict[str, str] | None = None


class SiteTerms(Table):
    """What `site.toml` holds. The defaults refuse: `deploy init` writes what its command line asked for."""

    client: str
    server: str | None = None
    """host:port; unset where the site's node is a SuperNode that somebody else starts (see `docs/flower.md`)."""
    insecure: bool = False
    """Without TLS and without a node key."""
    methods: tuple[str, ...] = ()
    """The methods that this site serves, by the names that the server says."""
    modes: tuple[Literal["masked", "private"], ...] = ()
    """What it insists on: masked sums alone, noise with a budget."""
    evaluate: Literal["refuse", "allow"] = "refuse"
    """Whether it counts right answers on test samples of its own."""
    least_samples: int = Field(default=20, ge=1)
    """The fewest samples behind any message, of training as of evaluation; of any class behind sums by class."""
    small_grams: Literal["refuse", "allow"] = "refuse"
    """Whether Grams on too few samples may leave (see `docs/privacy.md`)."""
    epsilon: float | None = Field(default=None, gt=0)
    """The most that all runs together may spend of this site's samples; a run without noise is refused then."""
    delta: float | None = Field(default=None, gt=0, lt=1)
    """The largest delta; whatever it says, one at or above 1 / samples is refused."""
    code: Literal["refuse", "allow"] = "refuse"
    """Whether a configuration that the server sends may name code to run, as file.py:Name or package.module:Name."""
    data: dict[str, Any] = Field(default_factory=dict)
    """Where its samples are and how they are read: keys of [data], above all `name` and columns."""
    backbones: dict[str, str] = Field(default_factory=dict)
    """The pre-trained models that it serves: the name that the server says, and where the model lies here."""
    run: OwnMachine = OwnMachine()
    secure: OwnMasking = OwnMasking()


@dataclass(frozen=True)
class SiteFolder:
    """A site's folder with its terms."""

    folder: Path
    terms: SiteTerms

    @property
    def server(self) -> str:
        """host:port of the server; `UserError` where the site does not say it."""
        if self.terms.server is None:
            raise UserError(
                f"{self.folder / FILE} does not say where the server is: write server = 'host:port', or start Flower's "
                "flower-supernode yourself (see docs/flower.md)"
            )
        return self.terms.server

    @property
    def authority(self) -> Path:
        return self.folder / AUTHORITY

    @property
    def key(self) -> Path:
        return self.folder / NODE_KEY

    @property
    def home(self) -> Path:
        return self.folder / "flwr"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def processes(self) -> Path:
        return self.folder / "processes"


def read_site(folder: Path) -> SiteFolder:
    """The site of a folder; `UserError` says what it lacks."""
    if not (folder / FILE).is_file():
        raise UserError(
            f"{folder} is no site (it has no {FILE}); 'fedbraid deploy init' and 'deploy add' make such folders, which "
            "are copied to their hosts whole"
        )
    terms = read_checked(folder / FILE, SiteTerms)
    check_name(terms.client)
    if terms.server is not None:
        split_address(terms.server)
    odd = sorted(set(terms.data) & OF_ALL)
    if odd:
        raise UserError(f"{folder / FILE}, [data]: {', '.join(odd)} are the same for all sites; remove them here")
    found = SiteFolder(folder.resolve(), terms)
    if terms.server is not None and not terms.insecure:
        for path in (found.authority, found.key):
            if not path.is_file():
                raise UserError(f"{folder} is not whole: it has no {path.name}; copy the folder from the server again")
        check_private(found.key)
    return found
