"""What a terminal shows of a run that is watched, and what a pipe gets: a line whenever something has changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedbraid.evaluation import score_of
from fedbraid.reports.html_numbers import counted, duration, size
from fedbraid.watch.asking import EVALUATE
from fedbraid.watch.picture import (
    APART,
    AWAITED,
    FAILED,
    FINISHED,
    GONE,
    IDLE,
    MISSING,
    PAUSED,
    READING,
    REFUSED,
    RUNNING,
    SENT,
    SILENT,
    STATES,
    Client,
    Round,
    Score,
    Status,
    Trouble,
)
from fedbraid.watch.texts import rough

COLOURS = {SENT: "blue", IDLE: "bright_black", AWAITED: "white", MISSING: "yellow", FAILED: "yellow", REFUSED: "red"}
STATE_COLOURS = {RUNNING: "blue", SILENT: "yellow", PAUSED: "yellow", FINISHED: "green"}
CODES = {"s": "blue", "i": "bright_black", "f": "yellow", "r": "red", "-": "bright_black"}
TROUBLES, EVERY = 4, 1.0
"""How many troubles are shown, and the seconds between two looks."""


def follow(look: Callable[[], Status], out: Console, address: str = "") -> None:
    """Shows the run until it has finished, or, where a page is served at `address`, for as long as one wants."""
    if not out.is_terminal:
        return _lines(look, out, address)
    with Live(console=out, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            status = look()
            live.update(view(status, address, out.width, out.height), refresh=True)
            if _over(status, address):
                return None
            time.sleep(EVERY)


def line(status: Status) -> str:
    """The run in one line."""
    done, rounds = status.progress.done, status.progress.rounds
    parts = [f"{status.state}: {done} of {rounds} rounds" if rounds else f"{status.state}: {counted(done, 'round')}"]
    if status.round:
        parts.append(f"{_named(status.round)}: {_answers(status.round)}")
    parts += [f"{score.heading} {score_of(score.name).text(score.last)}" for score in status.scores[:1]]
    parts += [status.why] if status.why else []
    return "; ".join(parts)


def view(status: Status, address: str = "", width: int = 120, height: int = 40) -> RenderableType:
    """The picture for a terminal of that size; clients with trouble come first where not all have room."""
    bar = 32 if width >= 110 else 14
    head = [_headline(status), _state(status, address), *_why(status), Text()]
    head += [_progress(status, bar), _round(status, bar), _figures(status), Text()]
    troubles = [_trouble(one) for one in status.troubles[:TROUBLES]]
    room = height - len(head) - (len(troubles) + 2 if troubles else 0) - 3
    table = [_clients(status.clients, width, max(room, 3))] if status.clients else []
    return Group(*head, *table, *([Text("\nwhat went wrong", "bold"), *troubles] if troubles else []))


def _lines(look: Callable[[], Status], out: Console, address: str) -> None:
    if address:
        out.print(address, highlight=False, soft_wrap=True)
    told = None
    while True:
        status = look()
        now = status.round
        news = (status.state, status.progress.done, now and (now.task, now.phase, now.index, now.over, _bad(now)))
        if news != told and status.state != READING:
            told = news
            out.print(f"{status.now} {line(status)}", markup=False, highlight=False, soft_wrap=True)
        if _over(status, address):
            return
        time.sleep(EVERY)


def _over(status: Status, address: str) -> bool:
    return not address and status.state in (FINISHED, GONE)


def _headline(status: Status) -> Text:
    about = status.about
    facts = [f"run {status.run}", f"{about.backbone} backbone" if about.backbone else ""]
    facts += [counted(about.clients, "client") if about.clients else ""]
    text = Text(f"{about.method or status.run}", "bold", no_wrap=True, overflow="ellipsis")
    if about.data:
        text.append(" on ", "not bold dim").append(about.data)
    return text.append(f"   {' · '.join(filter(None, facts))}", "not bold dim")


def _state(status: Status, address: str) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis").append(status.state, STATE_COLOURS.get(status.state, "bold"))
    return text.append(f"   page: {address}" if address else "")


def _why(status: Status) -> list[Text]:
    word = "if it has ended" if status.state == SILENT else "next"
    told = [status.why, f"{word}: {status.advice}" if status.advice else ""]
    return [Text(one, no_wrap=True, overflow="ellipsis") for one in told if one]


def _progress(status: Status, bar: int) -> Text:
    now = status.progress
    share = now.done / now.rounds if now.rounds else 0.0
    full = round(bar * share)
    text = _begun(f"{now.done} of {now.rounds} rounds" if now.rounds else counted(now.done, "round"))
    text.append("━" * full, STATE_COLOURS.get(status.state, "blue")).append("━" * (bar - full), "bright_black")
    text.append(f"  task {now.task + 1}{f' of {now.tasks}' if now.tasks else ''}")
    text.append(f", about {rough(now.left)} left" if now.left is not None else "")
    return text.append(f", {duration(now.spent)} in rounds", "dim") if now.spent else text


def _round(status: Status, bar: int) -> Text:
    now = status.round
    if now is None:
        return Text("no round has begun", "dim")
    text = _begun(_named(now))
    for state, width in zip(STATES, _shares([now.counts[state] for state in STATES[:-1]], bar), strict=False):
        text.append("━" * width, COLOURS[state])
    text.append(f"  {_answers(now)}")
    if now.seconds is None:
        return text
    if now.over:
        return text.append(f", {'paused' if status.state == PAUSED else 'merged'} after {duration(now.seconds)}", "dim")
    text.append(f", asked {rough(now.seconds)} ago", "dim")
    if now.deadline is not None:
        rest = now.deadline - now.seconds
        text.append(f", ends in {rough(rest)}" if rest > 0 else f", {rough(-rest)} over its deadline", "dim")
    return text


def _figures(status: Status) -> Text:
    parts = [_score(one) for one in status.scores[:3]]
    parts += [f"up {size(status.up)}, down {size(status.down)}"] if status.up else []
    if status.privacy:
        epsilon = status.privacy.epsilon
        parts.append("epsilon without bound" if epsilon is None else f"epsilon {epsilon:.3g} spent")
    parts += [f"last sign {rough(status.sign)} ago"] if status.sign is not None else []
    return Text("   ".join(parts), no_wrap=True, overflow="ellipsis")


def _clients(clients: Sequence[Client], width: int, room: int) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("client", overflow="ellipsis", no_wrap=True, max_width=40 if width >= 110 else 20)
    for heading in ("now", "sent", "took", "last rounds", "rounds", "sent in all"):
        table.add_column(heading, justify="left" if heading in ("now", "last rounds") else "right", no_wrap=True)
    urgent = (REFUSED, FAILED, MISSING, AWAITED, SENT, IDLE, APART)
    ranked = clients if len(clients) <= room else sorted(clients, key=lambda client: urgent.index(client.state))
    for client in ranked[:room]:
        now = Text("not asked" if client.state == APART else client.state, COLOURS.get(client.state, "bright_black"))
        past = client.history[-max(width - 76, 4) :]
        shown = Text.assemble(*(("▮" if code in "sfr" else "▁", CODES.get(code, "")) for code in past))
        sent, took = size(client.bytes) if client.bytes else "–", duration(client.seconds)
        table.add_row(Text(client.id), now, sent, took, shown, str(client.rounds), size(client.up))
    if len(clients) > room:
        table.add_row(Text(f"and {len(clients) - room} more", "dim"))
    return table


def _trouble(one: Trouble) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"{f'client {one.client} ' if one.client else ''}{one.what}", COLOURS.get(one.what, "yellow"))
    text.append(f" {one.times} times" if one.times > 1 else "")
    text.append(f" {rough(one.ago)} ago" if one.ago is not None else "", "dim")
    return text.append(f"  {one.text}")


def _begun(name: str) -> Text:
    return Text(f"{name:<27}  ", no_wrap=True, overflow="ellipsis")


def _named(now: Round) -> str:
    what = "evaluation" if now.phase == EVALUATE else f"{now.phase} round {now.index + 1}"
    return f"task {now.task + 1}, {what}"


def _answers(now: Round) -> str:
    others = [f"{now.counts[state]} {state}" for state in (AWAITED, MISSING, FAILED, REFUSED) if now.counts[state]]
    return ", ".join([f"{now.counts[SENT] + now.counts[IDLE]} of {now.asked} answered", *others])


def _bad(now: Round) -> int:
    return now.counts[FAILED] + now.counts[REFUSED]


def _score(score: Score) -> str:
    text = score_of(score.name).text
    return f"{score.heading} {text(score.last)} (best {text(score.best)})"


def _shares(counts: Sequence[int], width: int) -> list[int]:
    """The counts as parts of a width, none that is there left out where there is room.

    >>> _shares([23, 1, 4, 0, 1, 1], 32), _shares([0], 32)
    ([24, 1, 4, 0, 1, 1], [0])
    """
    total = sum(counts)
    if not total:
        return [0] * len(counts)
    return [max(int(width * count / total), 1) if count else 0 for count in counts]
