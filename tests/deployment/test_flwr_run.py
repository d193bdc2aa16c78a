"""`flwr run` as a Flower user knows it: settings in the run config, Flower's own server, nodes and executor."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("flwr", reason="the extra 'flower' is not installed")

import tomli_w
from small_federations import HOLDS, LONGER, SMALL, Grid, Node

from fedbraid import config, runs
from fedbraid.deployment import apps, faults, run_config
from fedbraid.deployment.answering import Answering
from fedbraid.deployment.control import ACTIVE
from fedbraid.deployment.directing import answers
from fedbraid.deployment.environment import surroundings
from fedbraid.deployment.hosting import free_port, host_site
from fedbraid.deployment.keys import AUTHORITY, CERTIFICATE, KEY, make_certificates, make_node_key
from fedbraid.deployment.site import NODE_KEY, read_site
from fedbraid.errors import RunError, UserError
from fedbraid.naming import file_name
from fedbraid.runtimes.envelope import coded
from fedbraid.sites import Simulated

PUBLIC = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.simulation")
EXAMPLE = Path(__file__).parents[2] / "examples" / "flower" / "pyproject.toml"
EQUAL = ("state_sha256", "accuracy_matrix")


def site(folder: Path, name: str, data: Path, **more: str) -> Path:
    """A site's folder as its owner writes it by hand."""
    terms = {
        **more,
        "client": name,
        "methods": ["lorm"],
        "least_samples": 1,
        "small_grams": "allow",
        "data": {"name": str(data)},
        "backbones": {"tiny": "tiny"},
    }
    folder.mkdir(parents=True)
    (folder / "site.toml").write_text(tomli_w.dumps(terms))
    return folder


def asked(folder: Path, *more: str, **own: Any) -> dict[str, Any]:
    """A run config: settings by names with dots."""
    settings = dict(one.split("=", 1) for one in (*SMALL, *more))
    return {"federation.folder": str(folder), **settings, **{f"federation.{key}": value for key, value in own.items()}}


def whole(data: Path, folder: Path, *more: str) -> dict[str, Any]:
    """The results of the run in one process on the union of the data."""
    settings = [*SMALL, f"data.name={data / 'union'}", "partition.kind=natural", *more]
    for _ in runs.start(config.read("", settings), folder).events():
        pass
    return {key: runs.read_results(folder)[key] for key in EQUAL}


def node(folder: Path) -> Node:
    here = Answering(read_site(folder))
    return Node("", here.greet, here.answer, here.check, lambda error: coded(*faults.keep(folder, error)))


@pytest.mark.usefixtures("identity")
def test_a_run_config_begins_a_run_goes_on_with_it_and_gives_it_more_tasks(data: Path, tmp_path: Path) -> None:
    sites = [site(tmp_path / name, name, data / name) for name in HOLDS]
    grid = Grid({10 + number: node(folder) for number, folder in enumerate(sites)})
    given = asked(tmp_path / "fed", f"data.name={data / 'server'}", sites="north south", insecure=True, wait=0)
    run_config.serve(grid, given)  # pyright: ignore[reportArgumentType]
    first, sent = runs.read_results(tmp_path / "fed" / "run"), len(grid.sent)
    assert {key: first[key] for key in EQUAL} == whole(data, tmp_path / "short")
    assert any("insecure" in note for note in first["notes"])
    run_config.serve(grid, given)  # pyright: ignore[reportArgumentType]
    assert not [kind for _, kind in grid.sent[sent:] if kind == "train"]
    run_config.serve(grid, given | {"set": " ".join(LONGER)})  # pyright: ignore[reportArgumentType]
    later = runs.read_results(tmp_path / "fed" / "run")
    assert {key: later[key] for key in EQUAL} == whole(data, tmp_path / "long", *LONGER)
    with pytest.raises(UserError, match=r"training.lr = 0.5 would make another run"):
        run_config.serve(grid, given | {"training.lr": 0.5})  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("identity")
def test_a_setting_is_compared_wherever_it_was_given(data: Path, tmp_path: Path) -> None:
    folder = site(tmp_path / "north", "north", data / "north")
    grid, file = Grid({10: node(folder)}), tmp_path / "run.toml"
    given = asked(tmp_path / "fed", f"data.name={data / 'server'}", sites="north", insecure=True, wait=0)
    given["config"] = str(file)
    file.write_text("[training]\nlr = 0.01\n[rounds]\ndeadline = 60\n")
    run_config.serve(grid, given)  # pyright: ignore[reportArgumentType]
    file.write_text("[training]\nlr = 0.02\n[rounds]\ndeadline = 60\n")
    with pytest.raises(UserError, match=r"training.lr = 0.02 would make another run of it \(it is 0.01\)"):
        run_config.serve(grid, given)  # pyright: ignore[reportArgumentType]
    file.write_text("[training]\nlr = 0.01\n[rounds]\ndeadline = 90\n")
    run_config.serve(grid, given)  # pyright: ignore[reportArgumentType]
    assert runs.read_config(tmp_path / "fed" / "run").rounds.deadline == 90
    file.write_text("[training]\nlr = 0.01\n")
    with pytest.raises(UserError, match=r"rounds.deadline cannot be taken back"):
        run_config.serve(grid, given)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, r"\[tool.flwr.app.config.federation\]: folder \(field required\)"),
        ({"federation.folder": "runs"}, "must be a whole path"),
        ({"federation.folder": "/x", "federation.server": "a"}, r"server \(extra inputs"),
        ({"federation.folder": "/x", "lr": 1}, "lr: unknown; settings have a section"),
        ({"federation.folder": "/x", "training.learning": 1}, "training.learning"),
        ({"federation.folder": "/x", "federation.sites": "a/.. '..'"}, "cannot be called so"),
        ({"federation.folder": "/x", "federation.sites": "north 'south"}, "federation.sites"),
        ({"federation.folder": "/x", "federation.sites": "north north"}, "two sites have one name"),
        ({"federation.folder": "/x", "federation.sites": "north test"}, "who tests at the server"),
        ({"federation.folder": "/dev/null/x", "data.name": "digits"}, "cannot make /dev/null/x"),
        ({"federation.folder": "/x", "set": "training.lr='1"}, "set ="),
    ],
)
def test_a_run_config_that_is_wrong_says_where(given: Mapping[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        run_config.serve(Grid({}), given)  # pyright: ignore[reportArgumentType]


def test_a_simulation_with_fewer_nodes_than_clients_says_how_many_it_needs(tmp_path: Path) -> None:
    given = asked(tmp_path / "fed", "data.name=digits", "partition.clients=3")
    with pytest.raises(UserError, match=r"3 clients and the simulation 0 SuperNodes.*num-supernodes=3"):
        run_config.serve(Grid({}), given)  # pyright: ignore[reportArgumentType]
    with pytest.raises(RunError, match="node 3 has no client: the partition is over 3"):
        Simulated(tmp_path / "fed" / "run", 3).greet()


@pytest.mark.usefixtures("identity")
def test_a_node_that_does_not_know_its_site_says_so_and_one_whose_folder_is_gone_gives_a_code(tmp_path: Path) -> None:
    from flwr.app import Message

    from fedbraid.runtimes.envelope import pack, unpack

    greeting = Message(pack(b""), 1, "query")
    greeting.metadata.__dict__["_message_id"] = "1"
    for told, said in (
        ({}, "give flower-supernode --node-config"),
        ({"site": ""}, "give flower-supernode"),
        ({"site": str(tmp_path / "gone")}, "do not fit"),
    ):
        reply = apps.client(greeting, SimpleNamespace(node_config=told, run_config={}))  # pyright: ignore[reportArgumentType]
        with pytest.raises(RunError, match=said) as caught:
            unpack(reply)
        assert "gone" not in str(caught.value)


def test_a_site_without_a_server_is_not_hosted(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not say where the server is"):
        host_site(read_site(site(tmp_path / "north", "north", data / "north")))


def test_the_inside_of_flower_is_used_in_one_file() -> None:
    source = Path(apps.__file__).parents[1]
    for path in sorted(source.rglob("*.py")):
        for found in ast.walk(ast.parse(path.read_text())):
            names = [found.module or ""] if isinstance(found, ast.ImportFrom) else []
            names += [one.name for one in found.names] if isinstance(found, ast.Import) else []
            inside = [name for name in names if name.startswith("flwr.") and name not in PUBLIC]
            assert not inside or path.name == "inside_flower.py", (path, inside)


@contextmanager
def running(folder: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program of Flower's with a home of its own, ended whatever happens."""
    log = (folder / f"{Path(command[0]).name}.log").open("ab")
    process = subprocess.Popen(command, env=surroundings(folder / "home"), stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)
        log.close()


@contextmanager
def server(folder: Path, *more: str, trust: str = "insecure = true") -> Iterator[str]:
    """Flower's server, known to its commands as `link`; the address is given."""
    address = f"127.0.0.1:{free_port()}"
    (folder / "home").mkdir(mode=0o700)
    link = f'[superlink]\ndefault = "link"\n\n[superlink.link]\naddress = "{address}"\n{trust}\n'
    (folder / "home" / "config.toml").write_text(link)
    at = ["--host", "127.0.0.1", "--port", address.split(":")[1]]
    with running(folder, "flower-superlink", *at, *more) as process:
        until(lambda: answers(int(at[-1])) or process.poll() is not None, 60)
        yield address


def app(folder: Path) -> Path:
    """The example, in a folder of its own."""
    folder.mkdir()
    shutil.copy(EXAMPLE, folder / "pyproject.toml")
    return folder


def flwr(folder: Path, *command: str) -> Any:
    """What a command of Flower's tells."""
    done = subprocess.run(
        ["flwr", *command, "--format", "json"],
        env=surroundings(folder / "home"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert '"success": true' in done.stdout, done.stdout + done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])


def finish(folder: Path, run: str, seconds: float = 400.0) -> None:
    """Waits until Flower says that a run has ended well."""
    over = time.monotonic() + seconds
    while (status := flwr(folder, "ls", "link", "--run-id", run)["runs"][0]["status"]) != "finished:completed":
        assert status in ACTIVE, (status, (folder / "flower-superlink.log").read_text())
        assert time.monotonic() < over
        time.sleep(1)


def until(ready: Callable[[], bool], seconds: float) -> None:
    over = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < over, "nothing happened"
        time.sleep(0.2)


@pytest.mark.slow
def test_flwr_run_on_flowers_own_server_by_its_executor_and_by_ours_has_the_bits_of_one_process(
    data: Path, tmp_path: Path
) -> None:
    """TLS, and nodes that are registered by key and name, as Flower's commands do it."""
    keys = tmp_path / "certificates"
    make_certificates(keys, ["127.0.0.1"])
    ca = str(keys / AUTHORITY)
    shown = ["--ssl-ca-certfile", ca, "--ssl-certfile", str(keys / CERTIFICATE), "--ssl-keyfile", str(keys / KEY)]
    with ExitStack() as open:
        linked = server(tmp_path, *shown, "--enable-supernode-auth", trust=f'root-certificates = "{ca}"')
        address = open.enter_context(linked)
        north = site(tmp_path / "north", "north", data / "north")
        south = site(tmp_path / "south", "南", data / "south", server=address)
        shutil.copy(ca, south)
        for name, folder in (("north", north), ("南", south)):
            make_node_key(folder / NODE_KEY, tmp_path / f"{folder.name}.pub")
            public = str(tmp_path / f"{folder.name}.pub")
            flwr(tmp_path, "supernode", "register", public, "link", f"--name={file_name(name)}")
        at = ["--superlink", address, "--root-certificates", ca, "--auth-supernode-private-key", str(north / NODE_KEY)]
        own = ["--port", str(free_port()), "--node-config", f'site="{north}"']
        open.enter_context(running(tmp_path, "flower-supernode", *at, *own))
        open.enter_context(running(tmp_path, sys.executable, "-m", "fedbraid", "deploy", "site", str(south)))
        given = {
            "federation.folder": str(tmp_path / "fed"),
            "federation.sites": "north 南",
            "data.name": str(data / "server"),
            "stream.sizes": "[2]",
            "set": " ".join(more := ["data.classes=2", *SMALL[2:]]),
        }
        values = " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in given.items())
        finish(tmp_path, flwr(tmp_path, "run", str(app(tmp_path / "app")), "link", "-c", values)["run-id"])
    renamed = tmp_path / "renamed"
    shutil.copytree(data / "union", renamed)
    for table in renamed.glob("*.csv"):
        table.write_text(table.read_text().replace("south", "南"))
    found = runs.read_results(tmp_path / "fed" / "run")
    settings = ["stream.sizes=[2]", *more, f"data.name={renamed}", "partition.kind=natural"]
    for _ in runs.start(config.read("", settings), tmp_path / "whole").events():
        pass
    expected = runs.read_results(tmp_path / "whole")
    assert {key: found[key] for key in EQUAL} == {key: expected[key] for key in EQUAL}


@pytest.mark.slow
def test_flwr_run_in_flowers_simulation_does_too(tmp_path: Path) -> None:
    values = f'federation.folder="{tmp_path / "fed"}" stream.sizes="[2]" set="data.classes=2 training.rounds=1"'
    with server(tmp_path, "--insecure", "--simulation"):
        run = flwr(
            tmp_path, "run", str(app(tmp_path / "app")), "link", "-c", values, "--federation-config", "num-supernodes=5"
        )
        finish(tmp_path, run["run-id"])
    settings = ["data.name=digits", "partition.clients=4", "stream.sizes=[2]", "data.classes=2", "training.rounds=1"]
    for _ in runs.start(config.read("", settings), tmp_path / "whole").events():
        pass
    found, expected = (runs.read_results(folder) for folder in (tmp_path / "fed" / "run", tmp_path / "whole"))
    assert {key: found[key] for key in EQUAL} == {key: expected[key] for key in EQUAL}
