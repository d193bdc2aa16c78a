"""The application that commands register with, and the arguments that several of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fedbraid.stopping import STATUS, stops
from fedbraid.terminal import fail


class InOrder(TyperGroup):
    """Lists the commands as one meets them: a run first, what others wrote command lines for last.

    One that is asked to stop and has no words of its own for that says so, and no more.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            with stops():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("stopped", STATUS)

    def list_commands(self, ctx: object) -> list[str]:  # noqa: ARG002
        first = ("run", "resume", "watch", "report", "compare", "table", "methods", "datasets", "recipes")
        return [*first, *(name for name in self.commands if name not in (*first, "mammoth")), "mammoth"]


app = typer.Typer(
    cls=InOrder,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Federated, continual fine-tuning of pre-trained models: statistics add, the server solves the sum.",
)

Folder = Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
