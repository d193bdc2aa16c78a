"""The handshake: what a server may set for a site, and what the site makes of it.

A server sends the part of a run's configuration that `config.shared` lists, and a site refuses every other key by
name. So the server chooses methods, rounds and numbers. Where samples are and how they are read, which models, how many
threads, what may leave: that is the site's own word (`site.toml`), and what it does not allow is refused before a file
is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedbraid import config as configs
from fedbraid import plugins
from fedbraid.config import Config
from fedbraid.config.shared import MAY_SET, may_set, shared
from fedbraid.data import DATASETS
from fedbraid.deployment.site import SiteFolder
from fedbraid.errors import RunError, UserError

FORMAT = "fedbraid-run-2"
CAP = 4 * 2**20
"""The most bytes of a configuration that a site reads."""
NOT_ALLOWED = "not allowed"


@dataclass(frozen=True)
class Handshake:
    """The run that a site is asked to take part in; `tested` says that it counts its own test samples."""

    run: str
    tested: bool
    config: Mapping[str, Any]


def write(config: Config, *, run: str, tested: bool) -> bytes:
    """What the server of a run sends to its sites."""
    values = shared(config.model_dump())
    text = json.dumps({"format": FORMAT, "run": run, "tested": tested, "config": values}).encode()
    if len(text) > CAP:
        raise UserError(f"the configuration takes {len(text)} bytes, more than the {CAP} that sites read; shorten it")
    return text


def read(text: bytes) -> Handshake:
    """What `write` wrote; `RunError` where it is something else, or sets what a server may not set."""
    if len(text) > CAP:
        raise RunError(f"the server sends a configuration of {len(text)} bytes, more than the {CAP} that are read")
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"the server sends no configuration ({error}); run one version everywhere") from error
    match facts:
        case {"format": str(form), "run": str(run), "tested": bool(tested), "config": dict(config)} if form == FORMAT:
            _check_keys(config)
            return Handshake(run, tested, config)
    raise RunError(f"the server sends no configuration of the format {FORMAT!r}; run one version everywhere")


def local_config(handshake: Handshake, site: SiteFolder) -> Config:
    """The configuration of the run as this site computes it; `UserError` for what it does not allow or lacks."""
    terms = site.terms
    values = {section: dict(table) for section, table in handshake.config.items()}
    if handshake.tested and terms.evaluate != "allow":
        raise _refused(site, "the server asks for counts of right answers on this site's test samples", "evaluate")
    _check_method(values.get("method", {}), site)
    _check_modes(values, site)
    values["data"] = _own_data(values.get("data", {}), site)
    values["backbone"] = {**values.get("backbone", {}), "name": _own_backbone(values.get("backbone", {}), site)}
    values.setdefault("privacy", {}).update(small_grams=terms.small_grams, least_samples=terms.least_samples)
    values.setdefault("partition", {})["kind"] = "sites"
    values.setdefault("run", {}).update(device=terms.run.device, threads=_threads(values.get("run", {}), site))
    values.setdefault("secure", {}).update(terms.secure.model_dump(exclude_none=True))
    return configs.parse(values, f"the server's configuration at site {terms.client}")


def _check_keys(config: Mapping[str, Any]) -> None:
    """`RunError` for a key that a server may not set."""
    for section, table in config.items():
        if not isinstance(table, dict):
            raise RunError(f"the server's configuration has no table {section!r}; run one version everywhere")
        odd = sorted(str(key) for key in table if not may_set(section, str(key)))
        if odd or section not in MAY_SET:
            named = ", ".join(f"{section}.{key}" for key in odd) or f"[{section}]"
            raise RunError(f"refused: the server sets {named}, which is for the site alone to say", code=NOT_ALLOWED)


def _refused(site: SiteFolder, what: str, key: str) -> UserError:
    return UserError(
        f"site {site.terms.client}: {what}, which {site.folder / 'site.toml'} does not allow ({key})", code=NOT_ALLOWED
    )


def _check_method(method: Mapping[str, Any], site: SiteFolder) -> None:
    name = str(method.get("name", ""))
    if name not in site.terms.methods:
        raise _refused(site, f"the server's method is {name!r}", f"methods = {list(site.terms.methods)}")
    if plugins.is_reference(name) and site.terms.code != "allow":
        raise _refused(site, f"the server's method {name!r} names code to run", "code")


def _check_modes(values: Mapping[str, Any], site: SiteFolder) -> None:
    """`UserError` for a run without a mode that the site insists on, or that may spend more than the site gives."""
    terms, privacy = site.terms, values.get("privacy", {})
    if "masked" in terms.modes and not values.get("secure", {}).get("masked"):
        raise _refused(site, "the server's run is in clear, and this site takes part in masked sums alone", "modes")
    epsilon, delta = privacy.get("epsilon"), privacy.get("delta")
    if epsilon is None and (terms.epsilon is not None or "private" in terms.modes):
        raise _refused(site, "the server's run has no budget (it adds no noise)", "epsilon, modes")
    if epsilon is not None and terms.epsilon is not None and not _at_most(epsilon, terms.epsilon):
        raise _refused(site, f"the server's run may spend epsilon = {epsilon}", f"epsilon = {terms.epsilon:g}")
    if epsilon is not None and terms.delta is not None and not _at_most(delta, terms.delta):
        raise _refused(site, f"the server's run has delta = {delta}", f"delta = {terms.delta:g}")


def _at_most(value: object, limit: float) -> bool:
    return isinstance(value, int | float) and value <= limit


def _own_data(data: Mapping[str, Any], site: SiteFolder) -> dict[str, Any]:
    """Keys of the server that are one for all sites, under the site's own: where its samples are, how they are read."""
    own, name = site.terms.data, data.get("name")
    code = plugins.is_reference(str(name))
    if "name" not in own and code and site.terms.code != "allow":
        raise _refused(site, f"the server's data set {name!r} names code to run", "code")
    if "name" not in own and name not in DATASETS and not code:
        raise UserError(
            f"site {site.terms.client}: {site.folder / 'site.toml'} does not say where its data are; write [data] name "
            "= ... (a folder or a table), or path = ... beside a known data set"
        )
    return {**data, **own}


def _own_backbone(backbone: Mapping[str, Any], site: SiteFolder) -> str:
    """Where the model lies here that the server names; the name itself is compared and nothing else is done with it."""
    name, known = str(backbone.get("name", "")), site.terms.backbones
    if name not in known:
        raise _refused(site, f"the server's backbone is {name!r}", f"[backbones] has {sorted(known)}")
    return known[name]


def _threads(run: Mapping[str, Any], site: SiteFolder) -> int | None:
    """As many as the server proposes, and no more than the site has: equal bits need equal numbers."""
    proposed, most = run.get("threads"), site.terms.run.threads or os.cpu_count() or 1
    return min(proposed, most) if isinstance(proposed, int) and proposed >= 1 else most
