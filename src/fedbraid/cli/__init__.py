"""The command line. Every command imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from fedbraid.cli import deploying, models, running, telling, watching
from fedbraid.cli.app import app
from fedbraid.terminal import fail
from fedbraid.version import __version__

__all__ = ["app", "deploying", "main", "models", "running", "telling", "watching"]


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """The entry point: errors that a user is meant to read are printed without a traceback."""
    from fedbraid.errors import RunError, UserError
    from fedbraid.stopping import STATUS, stoppable, stops

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names can be in scripts that a terminal does not have
    with stoppable():
        try:
            with stops():
                app()
        except (UserError, RunError) as error:
            fail(str(error), 2)
        except KeyboardInterrupt:  # before there is a command, which has words for it
            fail("stopped", STATUS)
