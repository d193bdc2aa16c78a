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

from fedbraid.deployment.federation import check_name, split_address
from fedbraid.deployment.keys import AUTHORITY, check_private
from fedbraid.deployment.toml import Table, read_checked
from fedbraid.errors import UserError

FILE, NODE_KEY = "site.toml", "node.key"


class OwnBackbone(Table):
    """Where this site has the pre-trained model, if not where everybody has it."""

    name: str | None = None


class OwnMachine(Table):
    """How this site computes."""

    device: str | None = None
    threads: int | None = Field(default=None, ge=1)


class OwnMasking(Table):
    """What this site asks of masked sums, whatever the server says (see `docs/masked.md`)."""

    masked: bool = False
    """Whether it takes part in masked sums alone."""
    threshold: int | None = Field(default=None, ge=3)
    identities: dict[str, str] | None = None


class SiteTerms(Table):
    """What `site.toml` holds."""

    client: str
    server: str
    insecure: bool = False
    """Without TLS and without a node key."""
    code: Literal["refuse", "allow"] = "refuse"
    """Whether a configuration that the server sends may name code to run, as file.py:Name or package.module:Name."""
    small_grams: Literal["refuse", "allow"] = "refuse"
    """Whether Grams on too few samples may leave (see `docs/privacy.md`)."""
    epsilon: float | None = Field(default=None, gt=0)
    """The most that a run may be allowed to spend of this site's samples; a run without noise is refused then."""
    data: dict[str, Any] = Field(default_factory=dict)
    """Keys of [data] that differ here, above all `name` and `path`."""
    backbone: OwnBackbone = OwnBackbone()
    run: OwnMachine = OwnMachine()
    secure: OwnMasking = OwnMasking()


@dataclass(frozen=True)
class SiteFolder:
    """A site's folder with its terms."""

    folder: Path
    terms: SiteTerms

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
    split_address(terms.server)
    if set(terms.data) & {"classes", "scores"}:
        raise UserError(f"{folder / FILE}, [data]: classes and scores are the same for all sites; remove them here")
    found = SiteFolder(folder.resolve(), terms)
    if not terms.insecure:
        for path in (found.authority, found.key):
            if not path.is_file():
                raise UserError(f"{folder} is not whole: it has no {path.name}; copy the folder from the server again")
        check_private(found.key)
    return found
