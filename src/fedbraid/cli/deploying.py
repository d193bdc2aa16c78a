"""Commands of a federation: made, brought up, looked at and ended, on one machine or on several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedbraid.cli.app import AsJson, app
from fedbraid.naming import printable
from fedbraid.terminal import print_json, print_table, tell

if TYPE_CHECKING:
    from collections.abc import Mapping

deploy = typer.Typer(
    no_args_is_help=True,
    help="A federation of machines: the same run over sites with data of their own, with TLS and node keys.",
)
app.add_typer(deploy, name="deploy")

Fed = Annotated[Path, typer.Argument(help="The federation's folder, on the server's machine.", metavar="FED")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Any setting, as section.key=value.")]
INSECURE = "INSECURE: without TLS and node keys; whoever reaches the port can read the run and pose as a site"


@deploy.command()
def init(
    fed: Fed,
    config: Annotated[str, typer.Argument(help="A TOML file or the name of a recipe.", metavar="[CONFIG]")] = "",
    method: Annotated[str, typer.Option(help="See 'fedbraid methods'.")] = "",
    data: Annotated[str, typer.Option(help="The server's data: test samples, by which classes are known.")] = "",
    backbone: Annotated[str, typer.Option(help="tiny, a hub id, a local folder, or timm:NAME[:PIXELS][@FILE].")] = "",
    site: Annotated[list[str] | None, typer.Option(help="NAME=DATA: a site and its data on its own host.")] = None,
    address: Annotated[str, typer.Option(help="Where sites reach the server, as host:port.")] = "127.0.0.1:9092",
    evaluate: Annotated[str, typer.Option(help="Where test samples are: server, or sites.")] = "server",
    wait: Annotated[float, typer.Option(help="Seconds that a run waits for nodes before it begins without.")] = 60,
    insecure: Annotated[bool, typer.Option("--insecure", help="Without TLS and node keys.")] = False,
    set_: Settings = None,
) -> None:
    """Make a federation: certificates, keys, the run's configuration, and a folder for each site."""
    from fedbraid import config as configs
    from fedbraid.deployment import commands

    terms = {"address": address, "evaluate": evaluate, "wait": wait, "insecure": insecure}
    flags = {"method.name": method, "data.name": data, "backbone.name": backbone}
    given = [f"{key}={value}" for key, value in flags.items() if value]
    made = commands.init(fed, configs.read(config, [*given, *(set_ or [])]), site or [], terms)
    if insecure:
        tell(INSECURE, err=True)
    for name in made.terms.sites:
        tell(f"{printable(name)}\t{made.site(name)}")


@deploy.command()
def up(
    fed: Fed,
    run: Annotated[bool, typer.Option("--run/--no-run", help="Whether to begin or continue the run.")] = True,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the run is finished.")] = False,
) -> None:
    """Start the server and the sites whose folders lie here, and the run."""
    from fedbraid.deployment import commands

    federation = commands.up(fed, run=run)
    if federation.terms.insecure:
        tell(INSECURE, err=True)
    tell(f"up at {federation.terms.address}; watch it with: fedbraid deploy status {fed}", err=True)
    if wait:
        commands.wait(fed)


@deploy.command()
def run(
    fed: Fed,
    set_: Settings = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the run is finished.")] = False,
) -> None:
    """Begin or continue the run; with --set stream.sizes=... and data.classes=... give it more tasks."""
    from fedbraid.deployment import commands

    commands.go_on(fed, set_ or [])
    if wait:
        commands.wait(fed)


@deploy.command()
def status(fed: Fed, as_json: AsJson = False) -> None:
    """Show processes, nodes and the run."""
    from fedbraid.deployment.status import status as look

    found = look(fed)
    if as_json:
        print_json(found)
        return
    tell(f"{found['address']}: {'TLS and node keys' if found['tls'] else INSECURE}")
    print_table(["what", "state", "processes"], _rows(found))
    flower, seen = found["flower_run"], found["run"]
    tell(_run_line(flower, seen))
    waits = _awaited(seen) if seen else ""
    if waits:
        tell(f"waiting for {waits}")
    if flower["why"] and flower["ended"] != "finished":
        tell(f"last attempt: {flower['why']}")


@deploy.command()
def down(fed: Fed) -> None:
    """End the server and the sites that run here; 'up' goes on with the run later."""
    from fedbraid.deployment import commands

    ended = commands.down(fed)
    tell(f"ended: {', '.join(ended)}" if ended else "nothing ran here", err=True)


@deploy.command()
def add(fed: Fed, site: Annotated[str, typer.Argument(help="NAME=DATA.", metavar="NAME=DATA")]) -> None:
    """Add a site: a key and a folder for its host. 'up' starts it here; it takes part from the next 'run' on."""
    from fedbraid.deployment import commands

    made = commands.add(fed, site)
    tell(made)
    tell(
        f"start it: 'fedbraid deploy up {fed}' here, or 'fedbraid deploy site {made.name}' on its own host; the run "
        f"takes it in with 'fedbraid deploy run {fed}'",
        err=True,
    )


@deploy.command()
def remove(fed: Fed, name: Annotated[str, typer.Argument(help="The site.", metavar="NAME")]) -> None:
    """Let a site in no more, from now on; the run expects it until the next 'deploy run'."""
    from fedbraid.deployment import commands

    commands.remove(fed, name)


@deploy.command()
def renew(fed: Fed) -> None:
    """Write a new certificate for the server; it is shown from the next start on."""
    from fedbraid.deployment import commands

    tell(commands.renew(fed))


@deploy.command()
def server(fed: Fed) -> None:
    """Serve a federation in the foreground, for systemd or a container."""
    from fedbraid.deployment import federation, hosting

    hosting.host_server(federation.read(fed))


@deploy.command()
def site(folder: Annotated[Path, typer.Argument(help="The site's folder, on its own host.", metavar="FOLDER")]) -> None:
    """Take part as a site in the foreground, for systemd or a container."""
    from fedbraid.deployment import hosting
    from fedbraid.deployment.site import read_site

    hosting.host_site(read_site(folder))


@deploy.command()
def check(
    folder: Annotated[Path, typer.Argument(help="A site's folder, or the federation's.", metavar="FOLDER")],
    as_json: AsJson = False,
) -> None:
    """What a server may ask of this site, and what not; of a federation what its sites would refuse of the run."""
    from fedbraid.deployment import checking

    found = checking.checked(folder)
    if as_json:
        print_json(found)
        return
    print_table(found["headings"], found["rows"])
    for line in found["notes"]:
        tell(line)


@deploy.command()
def identity(
    folder: Annotated[Path, typer.Argument(help="The site's folder, on its own host.", metavar="FOLDER")],
) -> None:
    """Make a site's key for signed masked sums; prints the public half, which all sites and the server write down."""
    from fedbraid.deployment.site import read_site
    from fedbraid.runtimes.identity import make_identity

    site = read_site(folder)
    tell(f'{site.terms.client} = "{make_identity(site.folder)}"')


def _rows(found: Mapping[str, Any]) -> list[list[str]]:
    server = ["server", "up" if found["server"]["up"] else "down", _numbers(found["server"]["processes"])]
    seen = found["flower_run"]["seen"]
    ago = f", {seen} s ago" if seen is not None and seen > 5 else ""
    sites = [[one["name"], _state(one) + ago, _numbers(one["processes"])] for one in found["sites"]]
    return [server, *sites]


def _state(site: Mapping[str, Any]) -> str:
    return "online" if site["online"] else "registered, not connected" if site["registered"] else "not registered"


def _awaited(seen: Mapping[str, Any]) -> str:
    """Who has not answered in the newest round, and why where that is known."""
    if not seen["round"] or seen["round"]["over"]:
        return ""
    missing = [one for one in seen["clients"] if one["state"] in ("awaited", "missing", "failed")]
    return ", ".join(one["id"] + (f" ({one['reason']})" if one["reason"] else "") for one in missing)


def _numbers(processes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in processes.items()) or "not here"


def _run_line(flower: Mapping[str, Any], seen: Mapping[str, Any] | None) -> str:
    told = f"Flower run {flower['id']}: {flower['status']}" if flower["id"] is not None else "no Flower run yet"
    if seen is None:
        return f"the run has not begun; {told}"
    progress = seen["progress"]
    return f"run {seen['state']}, round {progress['done']} of {progress['rounds']}; {told}"
