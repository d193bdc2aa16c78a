"""What the command line shows of a merge: progress while it works, then the certificate as a table and in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedbraid.errors import UserError
from fedbraid.merging.certificate import Certificate, LayerFact

HEADINGS = ["layer", "rank", "error", "from mean", "peft linear", "factor mean"]
_WIDTH = 25
"""What of a layer's name fits beside the numbers on a narrow terminal: its end, which tells most."""


def weights_of(text: str) -> list[float] | None:
    """The numbers of a list such as `0.2,0.3,0.5`; None for an empty text.

    >>> weights_of("1, 3")
    [1.0, 3.0]
    """
    if not text.strip():
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--weights {text!r} is no list of numbers; write for example 0.2,0.3,0.5") from error


@contextmanager
def progress() -> Iterator[None]:
    """Long steps inside this context show bars on a terminal."""
    from fedbraid.reports.console import bars
    from fedbraid.reports.screen_words import console

    screen = console(err=True)
    if not screen.is_terminal:
        yield
        return
    with bars(screen):
        yield


def rows(certificate: Certificate, limit: int | None = None) -> list[list[str]]:
    """A row a layer, those of all at the end; with a `limit` only so many layers, the worst first, names shortened."""
    c = certificate
    facts = c.layers if limit is None or len(c.layers) <= limit else sorted(c.layers, key=lambda f: -f.error)[:limit]
    left_out = len(c.layers) - len(facts)
    more = [[f"and {left_out} more", *[""] * 5]] if left_out else []
    ends = [_number(value) for value in (c.error, c.from_mean, c.peft_linear, c.factor_mean)]
    return [*(_row(fact, short=limit is not None) for fact in facts), *more, ["all", "", *ends]]


def in_words(certificate: Certificate, out: Path) -> str:
    """The certificate in a few lines for people."""
    c = certificate
    count = f"{len(c.adapters)} adapters" if len(c.adapters) > 1 else "1 adapter"
    cut = f"; {c.cut:.2g} is what the bound on the rank cuts" if c.cut else ""
    others = f"means of the factors {_number(c.factor_mean)}, this result {_number(c.from_mean)}"
    lines = [
        "",
        f"{c.rule} of {count}: {out}, {c.bytes / 1e6:.2f} MB",
        f"error {c.error:.2g}, worst {c.worst_error:.2g} in {c.worst_layer}{cut}",
        f"distance from the mean of the updates: peft's linear combination {_number(c.peft_linear)}, {others}",
        *(f"note: {note}" for note in c.notes),
    ]
    return "\n".join(lines)


def _row(fact: LayerFact, *, short: bool) -> list[str]:
    name = f"…{fact.layer[1 - _WIDTH :]}" if short and len(fact.layer) > _WIDTH else fact.layer
    numbers = (fact.error, fact.from_mean, fact.peft_linear, fact.factor_mean)
    return [name, "whole" if fact.rank is None else str(fact.rank), *map(_number, numbers)]


def _number(value: float | None) -> str:
    return "refused" if value is None else f"{value:.2g}"
