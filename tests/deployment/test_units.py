"""The container and service files of `examples/deployment`: they parse, and what they start exists."""

from __future__ import annotations

import configparser
import json
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fedbraid.cli import app

FOLDER = Path(__file__).parents[2] / "examples" / "deployment"
KNOWN = {"ARG", "COPY", "ENTRYPOINT", "FROM", "RUN", "USER", "WORKDIR"}


def check_command(arguments: list[str]) -> None:
    """`fedbraid deploy` knows the command, and takes these arguments as far as a folder that is not there."""
    done = CliRunner().invoke(app, ["deploy", *arguments])
    assert "holds no federation" in str(done.exception) or "is no site" in str(done.exception), done.output


@pytest.mark.parametrize(("name", "held"), [("server", "/srv/fed"), ("site", "/srv/north")])
def test_a_service_starts_what_there_is_and_may_write_its_folder(name: str, held: str) -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
    unit.read(FOLDER / f"fedbraid-{name}.service")
    service = unit["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert program.endswith("/bin/fedbraid")
    assert arguments == ["deploy", name, held]
    check_command(arguments[1:])
    assert service["ReadWritePaths"] == held
    assert (service["KillMode"], service["UMask"], service["Restart"]) == ("mixed", "0077", "always")
    assert unit["Install"]["WantedBy"] == "multi-user.target"


def test_an_image_copies_what_there_is_and_starts_as_a_user() -> None:
    lines = [line for line in (FOLDER / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    parts = [line.split(maxsplit=1) for line in lines]
    assert {word for word, _ in parts} <= KNOWN
    copied = [name for word, rest in parts if word == "COPY" for name in rest.split()[:-1]]
    assert copied
    assert all((FOLDER.parents[1] / name).exists() for name in copied)
    assert [rest for word, rest in parts if word == "USER"] == ["fedbraid"]
    assert json.loads(parts[-1][1]) == ["fedbraid", "deploy"]


def test_services_of_compose_start_a_server_and_a_site_over_their_folders() -> None:
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    assert set(services) == {"server", "site"}
    for name, service in services.items():
        what, folder = service["command"]
        assert what == name
        check_command(service["command"])
        mounted = [volume.split(":")[1] for volume in service["volumes"]]
        assert mounted == [folder, "/data"]
        assert service["init"]
        assert (FOLDER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert "ports" not in services["site"]
