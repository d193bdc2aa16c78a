"""Federations as folders: what is made, who may read it, and what is said where something is missing."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="the extra 'flower' is not installed")
pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")

from small_federations import HOLDS, federation, grid_of
from typer.testing import CliRunner

from fedbraid import config, runs
from fedbraid.cli import app
from fedbraid.deployment import commands
from fedbraid.deployment.federation import read, split_address
from fedbraid.deployment.notes import Wanted, want, wanted
from fedbraid.deployment.serving import serve
from fedbraid.deployment.site import read_site
from fedbraid.deployment.status import status
from fedbraid.errors import UserError
from fedbraid.naming import file_name
from fedbraid.runtimes.identity import make_identity

NAME = "\u5317" * 200


def deploy(*arguments: str) -> tuple[str, str]:
    done = CliRunner().invoke(app, ["deploy", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federation that nobody changes."""
    return federation(tmp_path_factory.mktemp("made") / "fed", data).folder


def test_a_site_is_a_folder_with_all_it_needs_and_no_secret_of_another(made: Path) -> None:
    assert {path.name for path in (made / "sites" / "north").iterdir()} == {"site.toml", "ca.crt", "node.key"}
    site = read_site(made / "sites" / "north")
    assert (site.terms.client, site.terms.server) == ("north", "127.0.0.1:9092")
    keys = [path.read_bytes() for path in made.rglob("*.key")]
    assert len({*keys}) == len(keys) == 2 + len(HOLDS)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in made.rglob("*.key"))


def test_the_configuration_names_all_classes_in_their_order(made: Path) -> None:
    found = config.read(str(made / "config.toml"))
    assert found.data.classes == ["0", "1", "2", "3"]
    assert (found.partition.kind, found.partition.sites, found.run.runtime) == ("sites", list(HOLDS), "deployed")


def test_a_site_folder_that_is_not_whole_says_what_it_lacks(made: Path, tmp_path: Path) -> None:
    site = tmp_path / "north"
    site.mkdir()
    with pytest.raises(UserError, match=r"is no site \(it has no site\.toml\)"):
        read_site(site)
    for name in ("site.toml", "ca.crt"):
        (site / name).write_bytes((made / "sites" / "north" / name).read_bytes())
    with pytest.raises(UserError, match=r"it has no node\.key; copy the folder"):
        read_site(site)
    (site / "node.key").write_bytes((made / "sites" / "north" / "node.key").read_bytes())
    (site / "node.key").chmod(0o640)
    with pytest.raises(UserError, match="others can read"):
        read_site(site)
    (site / "site.toml").write_text('client = "north"\nserver = "127.0.0.1:9092"\ncoed = "allow"\n')
    with pytest.raises(UserError, match=r"site\.toml: coed \(extra inputs are not permitted\)"):
        read_site(site)


@pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct)
@pytest.mark.parametrize("there", [False, True])
def test_all_of_it_is_its_owners_alone(data: Path, tmp_path: Path, umask: int, there: bool) -> None:
    before = os.umask(umask)
    try:
        if there:
            (tmp_path / "fed").mkdir(0o777)
        folder = federation(tmp_path / "fed", data).folder
        commands.add(folder, f"{NAME}={data / 'south'}")
        commands.renew(folder)
        commands.remove(folder, "north")
        make_identity(folder / "sites" / "south")
        make_identity(tmp_path / "fed" / "new")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert {mode for path, mode in found.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in found.items() if path.is_file()} == {0o600}


NAMES = [
    NAME,
    "ward 3/b",
    "-x",
    "server",
    "[red]:smile:",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "x" * 200,
]


def test_a_site_may_have_any_name(data: Path, tmp_path: Path) -> None:
    made = federation(tmp_path / "fed", data, sites={name: str(data / "north") for name in NAMES})
    found = read(made.folder)
    assert found.terms.sites == NAMES
    for name in NAMES:
        assert read_site(found.site(name)).terms.client == name
        assert found.key(name).is_file()
        assert found.site(name).parent == made.folder / "sites"
    assert len({found.log(name) for name in NAMES}) == len(NAMES)
    assert found.log("server") != found.logs / "server.log"
    shown, _ = deploy("status", str(made.folder))
    assert shown.isprintable() or all(sign.isprintable() or sign in "\n\t\u200c" for sign in shown)
    assert "[red]:smile:" in shown


@pytest.mark.usefixtures("identity")
def test_sites_of_any_name_answer_for_themselves(data: Path, tmp_path: Path) -> None:
    sites = {NAME: str(data / "north"), "ward 3/b": str(data / "south")}
    made = federation(tmp_path / "fed", data, sites=sites)
    grid = grid_of(made)
    for node in grid.nodes.values():
        node.name = file_name(node.name)  # as they are registered
    serve(grid, made, say=lambda line: None)
    assert set(runs.read_summary(made.run)["partition"]["samples"]) == set(sites)
    assert json.loads((made.run / "events.jsonl").read_text().splitlines()[1])["reported"] == sorted(sites)


def test_what_cannot_be_made_is_not_begun(data: Path, tmp_path: Path) -> None:
    sites = {"north": str(data / "north")}
    with pytest.raises(UserError, match="is no host:port"):
        split_address("fed.example.org")
    with pytest.raises(UserError, match=r"cannot be called so: '\.\.' is no name"):
        federation(tmp_path / "fed", data, sites={"..": "/x"})
    with pytest.raises(UserError, match="cannot be called 'test'"):
        federation(tmp_path / "fed", data, sites={"test": "/x"})
    with pytest.raises(UserError, match="no NAME=DATA"):
        commands.init(tmp_path / "fed", config.read(""), ["north"], {"address": "127.0.0.1:9092"})
    assert not (tmp_path / "fed").exists()
    federation(tmp_path / "fed", data, sites=sites)
    with pytest.raises(UserError, match="already holds files"):
        federation(tmp_path / "fed", data, sites=sites)
    with pytest.raises(UserError, match="there is a site north already"):
        commands.add(tmp_path / "fed", "north=/elsewhere")


def test_sites_are_added_and_removed_by_name(data: Path, tmp_path: Path) -> None:
    folder = federation(tmp_path / "fed", data, sites={"north": str(data / "north")}).folder
    deploy("add", str(folder), f"south={data / 'south'}")
    assert read(folder).terms.sites == ["north", "south"]
    assert read_site(folder / "sites" / "south").terms.client == "south"
    deploy("remove", str(folder), "north")
    assert read(folder).terms.sites == ["south"]
    with pytest.raises(UserError, match="there is no site 'north'"):
        commands.remove(folder, "north")


def test_a_federation_that_is_down_says_so(made: Path, tmp_path: Path) -> None:
    shown, _ = deploy("status", str(made))
    assert "TLS and node keys" in shown
    assert "server\tdown\tnot here" in shown
    assert "the run has not begun" in shown
    assert "nothing ran here" in deploy("down", str(made))[1]
    with pytest.raises(UserError, match="the federation is down"):
        commands.go_on(made)
    with pytest.raises(UserError, match="holds no federation"):
        status(tmp_path)


def test_a_look_at_a_federation_imports_nothing_heavy(made: Path) -> None:
    code = "import sys; from fedbraid.cli import app; from typer.testing import CliRunner; "
    code += f"CliRunner().invoke(app, ['deploy', 'status', {str(made)!r}]); "
    code += "print('fedbraid.deployment.status' in sys.modules, {'torch', 'numpy', 'flwr'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True set()"


def test_a_port_that_is_taken_is_named(data: Path, tmp_path: Path) -> None:
    folder = federation(tmp_path / "fed", data, sites={"north": str(data / "north")}).folder
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        text = (folder / "federation.toml").read_text()
        (folder / "federation.toml").write_text(text.replace("9092", str(port)))
        with pytest.raises(UserError, match=f"port {port} cannot be used"):
            commands.up(folder)


@pytest.mark.usefixtures("identity")
def test_insecure_is_said_aloud_and_stays_in_the_report(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fed"
    sites = [part for name in HOLDS for part in ("--site", f"{name}={data / name}")]
    settings = [
        "data.classes=4",
        "stream.sizes=[4]",
        "training.rounds=1",
        "method.name=fedavg",
        f"data.name={data}/server",
    ]
    more = [part for one in settings for part in ("--set", one)]
    assert "INSECURE" in deploy("init", str(folder), "--insecure", "--wait", "0", *sites, *more)[1]
    assert not list(folder.rglob("*.key"))
    made = read(folder)
    serve(grid_of(made), made, lambda _: None)  # pyright: ignore[reportArgumentType]
    assert any("insecure" in note for note in runs.read_results(made.run)["notes"])
    assert "without TLS" in (made.run / "report.html").read_text()
    assert "INSECURE" in deploy("status", str(folder))[0]


def test_what_is_wanted_is_kept_and_damage_wants_nothing(tmp_path: Path) -> None:
    want(tmp_path, Wanted(True, 7))
    assert wanted(tmp_path) == Wanted(True, 7)
    (tmp_path / "wanted.json").write_text("[1")
    assert wanted(tmp_path) == Wanted()
