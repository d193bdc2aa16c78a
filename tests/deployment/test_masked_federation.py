"""Masked sums between sites of a federation: signed by keys of their own, on terms that each site sets for itself."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="the extra 'flower' is not installed")
pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")

from small_federations import SMALL, federation, grid_of

from fedbraid import config, runs
from fedbraid.deployment import faults, handshake
from fedbraid.deployment.handshake import local_config
from fedbraid.deployment.serving import serve
from fedbraid.deployment.site import OwnMasking, SiteFolder, SiteTerms
from fedbraid.errors import StoppedRun, UserError
from fedbraid.runtimes.identity import make_identity

SITES = ("east", "north", "south")

pytestmark = pytest.mark.usefixtures("identity")


def nothing(_text: str) -> None:
    """What a run says goes to Flower's log otherwise."""


def made(data: Path, folder: Path, *settings: str, evaluate: str = "server"):
    """A federation of three sites in masked mode; two of them have the same data."""
    held = {"east": "north", "north": "north", "south": "south"}
    tested = "-tested" if evaluate == "sites" else ""
    sites = {name: str(data / f"{own}{tested}") for name, own in held.items()}
    return federation(folder, data, "secure.masked=true", *settings, evaluate=evaluate, sites=sites)


def write_terms(federation, site: str, table: str) -> None:
    path = federation.site(site) / "site.toml"
    path.write_text(f"{path.read_text().partition('[secure]')[0]}\n[secure]\n{table}\n")


@pytest.mark.parametrize("evaluate", ["server", "sites"])
def test_a_federation_is_summed_under_masks_that_are_signed(data: Path, tmp_path: Path, evaluate: str) -> None:
    found = made(data, tmp_path / "fed", evaluate=evaluate)
    keys = {site: make_identity(found.site(site)) for site in SITES}
    listed = "{ " + ", ".join(f'{site} = "{key}"' for site, key in keys.items()) + " }"
    found.config.write_text(found.config.read_text().replace("[secure]", f"[secure]\nidentities = {listed}"))
    for site in SITES:
        write_terms(found, site, f"identities = {listed}")
    serve(grid_of(found), found, nothing)  # pyright: ignore[reportArgumentType]
    results = runs.read_results(found.run)
    assert results["finished"]
    assert results["accuracy_matrix"]
    assert any("masked sums, threshold 3 of 3, signed by the clients" in note for note in results["notes"])


def test_a_site_refuses_a_server_that_names_other_keys(data: Path, tmp_path: Path) -> None:
    found = made(data, tmp_path / "fed")
    keys = {site: make_identity(found.site(site)) for site in SITES}
    listed = "{ " + ", ".join(f'{site} = "{key}"' for site, key in keys.items()) + " }"
    write_terms(found, "south", f"identities = {listed}")
    with pytest.raises(StoppedRun, match="client south: it does not take part in this masked sum"):
        serve(grid_of(found), found, nothing)  # pyright: ignore[reportArgumentType]
    told = faults.read(found.site("south"))["masked"]["sentence"]
    assert told.startswith("client 'south' refuses the sum: the server names other identities")


def test_what_a_site_asks_for_stands_over_what_the_server_says(tmp_path: Path) -> None:
    terms = SiteTerms(
        client="a",
        server="127.0.0.1:1",
        methods=("lorm",),
        modes=("masked",),
        backbones={"tiny": "tiny"},
        data={"name": "digits"},
        secure=OwnMasking(threshold=4),
    )
    site = SiteFolder(tmp_path, terms)

    def greeted(*settings: str):
        sent = handshake.write(config.read("", [*SMALL, *settings]), run="run", tested=False)
        return local_config(handshake.read(sent), site)

    with pytest.raises(UserError, match="this site takes part in masked sums alone"):
        greeted()
    secure = greeted("secure.masked=true", "secure.threshold=3").secure
    assert (secure.masked, secure.threshold) == (True, 4)
