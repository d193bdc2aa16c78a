"""One picture of a run as plain data, from its folder alone, in whatever state that is.

`Watch.look` reads what is new and gives the picture; it takes the time from outside and keeps little, so that a run of
any length can be looked at every second.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from fedbraid.errors import UserError
from fedbraid.evaluation import score_of
from fedbraid.reports.html_numbers import counted, duration, real
from fedbraid.watch.asking import Asked, Log, Pause
from fedbraid.watch.finishing import Finished, Totals
from fedbraid.watch.following import Document, Lines
from fedbraid.watch.picture import (
    APART,
    FINISHED,
    GONE,
    NOT_BEGUN,
    PAUSED,
    READING,
    RUNNING,
    SILENT,
    About,
    Client,
    Progress,
    Round,
    Score,
    Status,
    Trouble,
)
from fedbraid.watch.texts import REASON, facts, natural, plain, seconds, texts, whole

RESULTS = ("faa", "aia", "forgetting")
LEAST, FIRST, TIMES = 60.0, 600.0, 3.0
"""A run is silent after a minute and three times the usual wait; ten minutes where nothing is known to be usual."""


def watching(folder: Path) -> Watch:
    """A watch over a run; `UserError` where the folder holds none."""
    if not (folder / "config.toml").is_file():
        raise UserError(
            f"{folder} holds no run (it has no config.toml); one that is being prepared makes it when it is ready, and "
            f"'fedbraid run --out {folder}' starts one"
        )
    return Watch(folder)


class Watch:
    """Looks at one run folder again and again; each look reads what is new for at most `patience` seconds."""

    def __init__(self, folder: Path, *, patience: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._patience = patience
        self._clock = clock
        self._config = Document(folder / "config.toml")
        self._summary = Document(folder / "summary.json")
        self._results = Document(folder / "results.json")
        self._activity = Lines(folder / "activity.jsonl")
        self._events = Lines(folder / "events.jsonl")
        self._log, self._finished = Log(), Finished()
        self._gaps: set[tuple[int, int]] = set()

    def look(self, now: datetime | None = None) -> Status:
        """The picture at this moment."""
        now = now or datetime.now(timezone.utc)
        self._read()
        log, finished, results = self._log, self._finished, self._results.values()
        read = min(self._activity.share(), self._events.share())
        state, why, advice = self._state(now, read)
        about = self._about()
        return Status(
            run=plain(self._folder.resolve().name),
            state=state,
            why=why,
            advice=advice,
            now=now.isoformat(timespec="milliseconds"),
            sign=seconds(self._sign(), now),
            read=read,
            about=about,
            progress=self._progress(now, about, state),
            round=_round(log.asked, now),
            training=_round(log.training, now),
            clients=self._clients(now),
            scores=_scores(finished),
            curve=tuple(finished.curve.points()),
            starts=tuple(sorted(finished.starts.items())),
            up=sum(totals.up for totals in finished.clients.values()),
            down=sum(totals.down for totals in finished.clients.values()),
            failed=sum(totals.failed for totals in finished.clients.values()),
            refused=sum(totals.refused for totals in finished.clients.values()),
            ignored=log.ignored,
            troubles=tuple(
                Trouble(_iso(one.at), seconds(one.at, now), one.what, one.client, one.text, one.times)
                for one in log.notices()
            ),
            privacy=log.privacy,
            results={key: value for key in RESULTS if (value := real(results.get(key))) is not None},
        )

    def _read(self) -> None:
        over = self._clock() + self._patience
        if self._activity.restarted():
            self._log = Log()
        for entry in self._activity.entries(lambda: self._clock() < over):
            self._log.add(entry)
        while self._read_rounds(over):
            self._events.rewind()

    def _read_rounds(self, over: float) -> bool:
        """Whether to read once more: a file that was cut back and has grown again shows in its round numbers."""
        if self._events.restarted() or not self._events.begun():
            self._finished = Finished(texts(self._summary.values().get("score_names")))
        for record in self._events.entries(lambda: self._clock() < over):
            self._finished.add(record)
        new = self._finished.gaps - self._gaps  # one that is still there is a damaged line
        self._gaps |= new
        return bool(new)

    def _state(self, now: datetime, read: float) -> tuple[str, str, str]:
        """(state, why, what to do)."""
        folder = plain(shlex.quote(str(self._folder)), REASON)
        resume = f"fedbraid resume {folder}"
        if self._results.values().get("finished"):
            return FINISHED, "", f"fedbraid report {folder}"
        if not self._config.values():
            return GONE, f"{folder} holds no run any more", ""
        if read < 1:
            return READING, f"{read:.0%} of the log has been read", ""
        if self._sign() is None:
            return NOT_BEGUN, "no round has begun", resume
        if self._log.pause:
            return PAUSED, _paused(self._log.pause), resume
        silent = self._silent(now)
        return (SILENT, silent, resume) if silent else (RUNNING, "", "")

    def _sign(self) -> datetime | None:
        """When anything was heard of the run last."""
        return self._log.last or self._events.changed()

    def _silent(self, now: datetime) -> str:
        """Why the run is thought to be silent; empty where it is not. That its process lives cannot be seen here."""
        usual = self._log.usual_wait()
        waited = seconds(self._sign(), now) or 0.0
        asked = self._log.asked
        still = asked and not asked.over and asked.deadline and (seconds(asked.at, now) or 0.0) <= asked.deadline
        if still or waited <= (FIRST if usual is None else max(LEAST, TIMES * usual)):
            return ""
        known = "" if usual is None else f"; the longest wait in the last rounds was {duration(usual)}"
        return f"no sign for {duration(waited)}{known}. A step takes long, or the run's process has ended"

    def _about(self) -> About:
        summary, config = self._summary.values(), self._config.values()
        method = summary.get("method") or facts(config.get("method")).get("name")
        data = summary.get("data") or facts(config.get("data")).get("name")
        seed = summary.get("seed")
        return About(
            method=_named(method),
            data=_named(data),
            backbone=_named(summary.get("backbone")),
            partition=_named(facts(summary.get("partition")).get("kind")),
            seed=seed if isinstance(seed, int) else None,
            clients=whole(summary.get("clients")) or None,
            tasks=whole(summary.get("tasks")) or None,
        )

    def _progress(self, now: datetime, about: About, state: str) -> Progress:
        done, spent = self._finished.done, self._finished.seconds
        rounds = whole(self._summary.values().get("rounds")) or None
        asked = self._log.asked
        left = None
        if done and rounds and state == RUNNING:
            begun = (seconds(asked.at, now) or 0.0) if asked and not asked.over else 0.0
            usual = spent / done
            left = max(usual * (rounds - done) - min(begun, usual), 0.0)
        task = max(self._finished.task, asked.task if asked else 0)
        return Progress(done, rounds, task, about.tasks, spent, left)

    def _clients(self, now: datetime) -> tuple[Client, ...]:
        log, asked = self._log, self._log.training
        samples = facts(facts(self._summary.values().get("partition")).get("samples"))
        names = {*map(str, samples), *self._finished.clients, *(asked.cohort if asked else ())}
        return tuple(
            _client(
                name,
                asked,
                self._finished.clients.get(name, Totals()),
                sum(map(whole, samples[name])) if isinstance(samples.get(name), list) else None,
                seconds(log.seen.get(name), now),
            )
            for name in sorted(names, key=natural)
        )


def _client(name: str, asked: Asked | None, totals: Totals, samples: int | None, seen: float | None) -> Client:
    reply = asked.replies.get(name) if asked else None
    return Client(
        id=plain(name),
        state=asked.state(name) if asked else APART,
        reason=reply.reason if reply else "",
        bytes=reply.bytes if reply else 0,
        seconds=seconds(asked.asked(name), reply.at) if asked and reply else None,
        seen=seen,
        samples=samples,
        rounds=totals.rounds,
        idle=totals.idle,
        failed=totals.failed,
        refused=totals.refused,
        up=totals.up,
        down=totals.down,
        history="".join(totals.history),
    )


def _round(asked: Asked | None, now: datetime) -> Round | None:
    if asked is None:
        return None
    return Round(
        task=asked.task,
        phase=asked.phase,
        index=asked.index,
        at=_iso(asked.at),
        seconds=seconds(asked.at, asked.ended or now),
        deadline=asked.deadline,
        needed=asked.needed,
        asked=len(asked.cohort),
        counts=asked.counts(),
        over=asked.over,
    )


def _scores(finished: Finished) -> tuple[Score, ...]:
    shown = {name: score_of(name) for name in finished.scores}
    return tuple(
        Score(plain(name), plain(shown[name].heading), value, finished.best[name], shown[name].unit)
        for name, value in finished.scores.items()
    )


def _paused(pause: Pause) -> str:
    return pause.reason or f"{pause.answered} of {counted(pause.asked, 'client')} answered, {pause.needed} are needed"


def _named(value: object) -> str | None:
    return plain(value) if value else None


def _iso(at: datetime | None) -> str | None:
    return at.isoformat(timespec="milliseconds") if at else None
