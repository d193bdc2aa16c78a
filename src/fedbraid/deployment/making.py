"""Making a federation: certificates, keys, the run's configuration, and a folder for every site to be handed out."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedbraid import config as configs
from fedbraid.config import Config
from fedbraid.config.sections import DataConfig
from fedbraid.config.shared import label_of, may_set
from fedbraid.data import DATASETS, EVALUATOR
from fedbraid.deployment.federation import Federation, Terms, check_name, split_address
from fedbraid.deployment.keys import AUTHORITY, make_certificates, make_node_key
from fedbraid.deployment.owning import owner_alone
from fedbraid.deployment.site import FILE as SITE_FILE
from fedbraid.deployment.site import NODE_KEY, OwnMasking, SiteTerms
from fedbraid.deployment.toml import write_table
from fedbraid.errors import UserError
from fedbraid.loading import load_data
from fedbraid.version import __version__

APP = """[project]
name = "fedbraid-federation"
version = "{version}"
description = "A federation of fedbraid; all code is in the installed package."
license = "Apache-2.0"

[tool.flwr.app]
publisher = "fedbraid"

[tool.flwr.app.components]
serverapp = "fedbraid.deployment.apps:server"
clientapp = "fedbraid.deployment.apps:client"

[tool.flwr.app.config]
"""


def require_flower() -> None:
    """`UserError` where the extra is not installed."""
    missing = [name for name in ("flwr", "cryptography") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"a deployment needs an extra that is not installed ({', '.join(missing)}): pip install 'fedbraid[flower]'"
        )


@owner_alone()
def make(folder: Path, config: Config, terms: Terms, sites: Mapping[str, str]) -> Federation:
    """A federation in a new folder; `sites` says by name where a site's data lie, on its own host.

    Raises `UserError` where the folder holds something, or configuration and server's data do not fit.
    """
    require_flower()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} already holds files; choose another folder, or add sites with 'deploy add'")
    split_address(terms.address)
    check_sites(list(sites))
    settled = deployed(config, list(sites))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # it may have been there
    found = Federation(folder.resolve(), terms.model_copy(update={"sites": list(sites)}))
    if not terms.insecure:
        make_certificates(found.certificates, [found.host])
    found.app.mkdir()
    (found.app / "pyproject.toml").write_text(APP.format(version=__version__))
    found.config.write_text(configs.to_toml(settled))
    for name, data in sites.items():
        make_site(found, name, data, settled)
    found.write()  # last: a folder without it is no federation
    return found


@owner_alone()
def make_site(federation: Federation, name: str, data: str, config: Config) -> Path:
    """The folder of a new site."""
    _check_name(name)
    folder = federation.site(name)
    if folder.exists() or federation.key(name).exists():
        raise UserError(f"there is a site {name} already, in {folder}")
    folder.mkdir(parents=True)
    privacy, secure = config.privacy, config.secure
    modes = [mode for mode, on in (("masked", secure.masked), ("private", privacy.epsilon is not None)) if on]
    terms = SiteTerms(
        client=name,
        server=federation.terms.address,
        insecure=federation.terms.insecure,
        methods=(str(config.method["name"]),),
        modes=tuple(modes),  # pyright: ignore[reportArgumentType]
        evaluate="allow" if federation.terms.evaluate == "sites" else "refuse",
        least_samples=privacy.least_samples,
        small_grams="allow" if privacy.small_grams == "allow" else "refuse",
        epsilon=privacy.epsilon,
        delta=None if privacy.epsilon is None else privacy.delta,
        data=_own_data(data, config),
        backbones={label_of(config.backbone.name): config.backbone.name},
        secure=OwnMasking(threshold=secure.threshold, identities=secure.identities),
    )
    if not federation.terms.insecure:
        make_node_key(folder / NODE_KEY, federation.key(name))
        (folder / AUTHORITY).write_bytes((federation.certificates / AUTHORITY).read_bytes())
    write_table(folder / SITE_FILE, terms, "Paths are those of the host of this site; see docs/deploy.md.")
    return folder


def check_sites(names: Sequence[str]) -> None:
    """`UserError` for names that sites cannot have, or cannot have at once."""
    for name in names:
        _check_name(name)
    if len({*names}) < len(names):
        raise UserError("two sites have one name; a name is a client's id")


def _check_name(name: str) -> None:
    if check_name(name) == EVALUATOR:
        raise UserError(f"a site cannot be called {name!r}, which is who tests at the server; choose another name")


def _own_data(data: str, config: Config) -> dict[str, Any]:
    """Where a site's samples are and how they are read: as those of the server, unless the site says otherwise.

    Beside a known data set a path is a copy of it, otherwise it is the data set.
    """
    path = str(Path(data).expanduser().absolute())
    usual = DataConfig().model_dump()
    read = {
        key: value
        for key, value in config.data.model_dump().items()
        if not may_set("data", key) and key != "path" and value != usual[key]
    }
    return {**({"path": path} if config.data.name in DATASETS else {"name": path}), **read}


def deployed(config: Config, sites: Sequence[str]) -> Config:
    """The configuration of a run whose clients are sites, its classes named, its paths absolute."""
    partition = config.partition.model_copy(update={"kind": "sites", "sites": list(sites), "file": None})
    dataset = load_data(config.model_copy(update={"partition": partition}))
    known = config.data.name in DATASETS
    name = config.data.name if known or not Path(config.data.name).exists() else str(Path(config.data.name).resolve())
    classes = config.data.classes if dataset.train.targets is not None else list(dataset.class_names)
    backbone = config.backbone.name
    if backbone != "tiny" and Path(backbone).expanduser().exists():
        backbone = str(Path(backbone).expanduser().resolve())
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"name": name, "classes": classes}),
            "backbone": config.backbone.model_copy(update={"name": backbone}),
            "partition": partition,
            "run": config.run.model_copy(update={"runtime": "deployed"}),
        }
    )
