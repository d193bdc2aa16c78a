"""What the server greets a site with: the run's configuration; and what a site makes of it.

A site trusts the server with methods, rounds and numbers. It does not let it name files to read or code to run: data
and local models are those of `site.toml`, and a reference to code is refused unless the site allows it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedbraid import config as configs
from fedbraid import plugins
from fedbraid.config import Config
from fedbraid.data import DATASETS
from fedbraid.deployment.site import SiteFolder
from fedbraid.errors import RunError, UserError

FORMAT = "fedbraid-run-1"
CAP = 4 * 2**20
"""The most bytes of a configuration that a site reads."""


@dataclass(frozen=True)
class Greeting:
    """The run that a site is asked to take part in; `tested` says that it counts its own test samples."""

    run: str
    tested: bool
    config: Mapping[str, Any]


def write(config: Config, *, run: str, tested: bool) -> bytes:
    """The greeting of a run."""
    facts = {"format": FORMAT, "run": run, "tested": tested, "config": config.model_dump()}
    text = json.dumps(facts).encode()
    if len(text) > CAP:
        raise UserError(f"the configuration takes {len(text)} bytes, more than the {CAP} that sites read; shorten it")
    return text


def read(text: bytes) -> Greeting:
    """The greeting that `write` wrote; `RunError` where it is none."""
    if len(text) > CAP:
        raise RunError(f"the server sends a configuration of {len(text)} bytes, more than the {CAP} that are read")
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"the server sends no configuration ({error}); run one version everywhere") from error
    match facts:
        case {"format": str(form), "run": str(run), "tested": bool(tested), "config": dict(config)} if form == FORMAT:
            return Greeting(run, tested, config)
    raise RunError(f"the server sends no configuration of the format {FORMAT!r}; run one version everywhere")


def local_config(greeting: Greeting, site: SiteFolder) -> Config:
    """The configuration of the run as this site computes it; `UserError` for what it does not allow or lacks."""
    values = {section: dict(_table(section, table)) for section, table in greeting.config.items()}
    own = site.terms
    for section in ("method", "data", "backbone"):
        name = str(values.get(section, {}).get("name", ""))
        if plugins.is_reference(name) and own.code != "allow" and not (section == "data" and "name" in own.data):
            raise UserError(
                f"site {own.client}: the server's {section}.name = {name!r} names code to run, which it refuses; "
                f'code = "allow" in {site.folder / "site.toml"} allows it'
            )
    data = values.setdefault("data", {})
    if "name" not in own.data and data.get("name") not in DATASETS and not plugins.is_reference(str(data.get("name"))):
        raise UserError(
            f"site {own.client}: {site.folder / 'site.toml'} does not say where its data are; write [data] name = ... "
            "(a folder or a table), or path = ... beside a known data set"
        )
    data |= {"path": None, **own.data}
    values.setdefault("partition", {})["file"] = None
    _settle_backbone(values.setdefault("backbone", {}), site)
    _settle_privacy(values.setdefault("privacy", {}), site)
    values.setdefault("run", {}).update(own.run.model_dump(exclude_none=True))
    _settle_masking(values.setdefault("secure", {}), site)
    return configs.parse(values, f"the server's configuration at site {own.client}")


def _settle_backbone(backbone: dict[str, Any], site: SiteFolder) -> None:
    """A path is the site's own: the server's is a place on another machine."""
    named = site.terms.backbone.name
    if named:
        backbone["name"] = named
        return
    name = str(backbone.get("name", ""))
    place = name.partition("@")[2] if name.startswith("timm:") else name
    if Path(place).is_absolute():
        raise UserError(
            f"site {site.terms.client}: the backbone {name} is a path on the server; write where it lies here into "
            f"{site.folder / 'site.toml'}, [backbone] name = ..."
        )


def _settle_privacy(privacy: dict[str, Any], site: SiteFolder) -> None:
    """The site's own word on Grams; `UserError` for a run that may spend more than the site gives."""
    own, budget = site.terms, privacy.get("epsilon")
    if own.epsilon is not None and not (isinstance(budget, int | float) and budget <= own.epsilon):
        told = "has no budget (it adds no noise)" if budget is None else f"may spend epsilon = {budget}"
        raise UserError(
            f"site {own.client}: the server's run {told}, and this site gives at most {own.epsilon:g} "
            f"({site.folder / 'site.toml'}, epsilon)"
        )
    privacy["small_grams"] = own.small_grams


def _settle_masking(secure: dict[str, Any], site: SiteFolder) -> None:
    """What the site asks for stands over what the server says: it could say anything."""
    own = site.terms.secure
    if own.masked and not secure.get("masked"):
        raise UserError(
            f"site {site.terms.client} takes part in masked sums alone ({site.folder / 'site.toml'}, [secure] masked), "
            "and the server's run is in clear"
        )
    secure |= own.model_dump(exclude_none=True, include={"threshold", "identities"})


def _table(section: str, table: object) -> Mapping[str, Any]:
    if not isinstance(table, dict):
        raise RunError(f"the server's configuration has no table {section!r}; run one version everywhere")
    return table
