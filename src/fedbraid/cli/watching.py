"""The command that watches a run while another process runs it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer

from fedbraid.cli.app import AsJson, Folder, app
from fedbraid.stopping import STATUS
from fedbraid.terminal import fail, print_json


@app.command()
def watch(
    run: Folder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page on this machine; 0 is any free one.")] = 0,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Whether to serve a page beside the terminal.")] = True,
    as_json: AsJson = False,
) -> None:
    """Watch a run: its rounds, its clients and what went wrong, in the terminal and on a page of this machine."""
    from fedbraid.reports.screen_words import console
    from fedbraid.watch.screen import follow
    from fedbraid.watch.serve import Shared, serving
    from fedbraid.watch.status import watching

    watched = watching(run)
    try:
        if as_json:
            while (status := watched.look()).read < 1:
                pass  # a long log is read in parts
            print_json(status.data())
            return
        look = Shared(watched.look)
        with serving(look, port) if page else nullcontext("") as address:
            follow(look, console(), address)
    except (KeyboardInterrupt, BrokenPipeError):
        fail("the watching has ended; the run is left as it is", STATUS)
