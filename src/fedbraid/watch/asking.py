"""What the log tells: who is asked now and who has answered, what went wrong lately, and when there was a sign of life.

Memory is bounded by the clients of the run and by constants: a log of any length is folded into this, entry by entry.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fedbraid.reports.html_numbers import counted, real
from fedbraid.watch.picture import APART, AWAITED, FAILED, IDLE, MISSING, REFUSED, SENT, STATES, Privacy
from fedbraid.watch.texts import REASON, facts, moment, natural, plain, seconds, texts, whole

NOTICES, WAITS, NAMED = 50, 60, 5
"""How many kinds of trouble and waits of the last rounds are kept, and how many clients a text names."""
EVALUATE = "evaluate"
"""The phase of an evaluation: `core.EVALUATE`, which would bring torch."""


@dataclass(frozen=True)
class Notice:
    """Something that an operator may have to look into: when it happened last, and how often it has."""

    at: datetime | None
    what: str
    client: str
    text: str
    times: int = 1


@dataclass(frozen=True)
class Reply:
    """What became of asking a client."""

    state: str
    at: datetime | None
    bytes: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Pause:
    """Why the run stopped: too few answers, or the reason given."""

    at: datetime | None
    answered: int
    needed: int
    asked: int
    reason: str = ""


@dataclass
class Asked:
    """One round as it comes together."""

    task: int
    phase: str
    index: int
    at: datetime | None
    cohort: frozenset[str]
    deadline: float | None
    needed: int | None
    ended: datetime | None = None
    over: bool = False
    replies: dict[str, Reply] = field(default_factory=dict[str, Reply])
    anew: dict[str, datetime | None] = field(default_factory=dict[str, "datetime | None"])
    """Who was asked once more, and when last."""

    def asked(self, client: str) -> datetime | None:
        """When a client was asked."""
        return self.anew.get(client, self.at)

    def state(self, client: str) -> str:
        """What a client is in this round."""
        if client in self.replies:
            return self.replies[client].state
        if client not in self.cohort:
            return APART
        return MISSING if self.over else AWAITED

    def counts(self) -> dict[str, int]:
        """How many of those who were asked are what."""
        found = dict.fromkeys(STATES[:-1], 0)
        for reply in self.replies.values():
            found[reply.state] += 1
        found[MISSING if self.over else AWAITED] += len(self.cohort) - len(self.replies)
        return found


class Log:
    """What there is to say of all entries so far."""

    def __init__(self) -> None:
        self.last: datetime | None = None
        self.asked: Asked | None = None
        self.training: Asked | None = None
        """The last round that was no evaluation: what clients do is shown of it."""
        self.pause: Pause | None = None
        self.privacy: Privacy | None = None
        self.ignored = 0
        self._notices: OrderedDict[tuple[str, str], Notice] = OrderedDict()
        self.seen: dict[str, datetime] = {}
        self._wait = 0.0
        self._waits: deque[float] = deque(maxlen=WAITS)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Takes the next entry; one of a kind that is not known here is a sign of life and no more."""
        at, what = moment(entry), entry.get("what")
        broken = what == "round" and self.asked is not None and not self.asked.over
        self._sign(at, resumed=broken or self.pause is not None)
        if what == "round":
            self._begin(entry, at)
        elif what in ("received", IDLE, FAILED, REFUSED):
            self._reply(str(what), entry, at)
        elif what == "again":
            self._again(texts(entry.get("clients")), at)
        elif what == "ignored":
            self.ignored += 1
            self._ignore(str(entry.get("client", "")), str(entry.get("reason", "")), at)
        elif what == "doubted":
            self._notice(at, "doubted", "", str(entry.get("reason", "")))
        elif what == "merged":
            self._end(at)
        elif what == "paused":
            self._stop(entry, at)
        elif what == "stopped" and not self.pause:
            self.pause = Pause(at, 0, 0, 0, plain(str(entry.get("reason", "")), REASON))
            self._notice(at, "paused", "", self.pause.reason)
        elif what == "privacy":
            self._spend(entry)

    def notices(self) -> list[Notice]:
        """What went wrong, the latest first."""
        return [*reversed(self._notices.values())]

    def usual_wait(self) -> float | None:
        """The longest wait between two signs of life in the last rounds but for one, which a stop may have made."""
        return sorted(self._waits)[-2] if len(self._waits) > 1 else None

    def _sign(self, at: datetime | None, *, resumed: bool) -> None:
        wait = seconds(self.last, at)
        if wait is not None and not resumed:
            self._wait = max(self._wait, wait)
        self.last = at or self.last

    def _begin(self, entry: Mapping[str, Any], at: datetime | None) -> None:
        try:
            spelt = facts(json.loads(entry.get("round", "")))
        except (TypeError, ValueError):
            spelt = {}
        self.pause = None
        self.asked = Asked(
            task=whole(facts(spelt.get("task")).get("index")),
            phase=plain(spelt.get("phase", "")),
            index=whole(spelt.get("index")),
            at=at,
            cohort=frozenset(texts(entry.get("cohort"))),
            deadline=real(entry.get("deadline")),
            needed=whole(entry.get("needed")) or None,
        )
        if self.asked.phase != EVALUATE:
            self.training = self.asked

    def _reply(self, what: str, entry: Mapping[str, Any], at: datetime | None) -> None:
        client = str(entry.get("client", ""))
        if self.asked is None or client not in self.asked.cohort:
            return
        state = SENT if what == "received" else what
        told = entry.get("reason")
        reason = plain(str(told).removeprefix(f"refused client {client}: "), REASON) if told else ""
        self.asked.replies[client] = Reply(state, at, whole(entry.get("bytes")), reason)
        if at:
            self.seen[client] = at
        if state in (FAILED, REFUSED):
            self._notice(at, state, client, reason)

    def _again(self, clients: list[str], at: datetime | None) -> None:
        if self.asked:
            for client in self.asked.cohort.intersection(clients):
                self.asked.replies.pop(client, None)
                self.asked.anew[client] = at
            self._notice(at, "again", "", f"asked again: {named(clients)}")

    def _ignore(self, client: str, reason: str, at: datetime | None) -> None:
        """Strangers share one notice: by making up names they could push all others out."""
        if self.asked and client in self.asked.cohort:
            self._notice(at, "ignored", client, reason)
        else:
            self._notice(at, "ignored", "", f"{plain(client)}: {reason}")

    def _end(self, at: datetime | None) -> None:
        self._waits.append(self._wait)
        self._wait = 0.0
        if self.asked:
            self.asked.ended, self.asked.over = at, True
            missing = [*(self.asked.cohort - self.asked.replies.keys())]
            if missing:
                count = f"{len(missing)} of {counted(len(self.asked.cohort), 'client')}"
                self._notice(at, MISSING, "", f"the round ended without {count}: {named(missing)}")

    def _stop(self, entry: Mapping[str, Any], at: datetime | None) -> None:
        asked = len(self.asked.cohort) if self.asked else 0
        self.pause = Pause(at, whole(entry.get("answered")), whole(entry.get("needed")), asked)
        if self.asked:
            self.asked.ended, self.asked.over = at, True
        text = f"{self.pause.answered} of {counted(asked, 'client')} answered, {self.pause.needed} are needed"
        self._notice(at, "paused", "", text)

    def _spend(self, entry: Mapping[str, Any]) -> None:
        epsilon, delta = entry.get("epsilon"), real(entry.get("delta"))
        spent = real(epsilon)
        if spent is None and not (isinstance(epsilon, float) and math.isinf(epsilon)):
            return
        most = self.privacy.epsilon if self.privacy else -1.0
        if most is not None and (spent is None or spent > most):
            self.privacy = Privacy(spent, delta)

    def _notice(self, at: datetime | None, what: str, client: str, text: object) -> None:
        earlier = self._notices.pop((what, client), None)
        times = earlier.times + 1 if earlier else 1
        self._notices[what, client] = Notice(at, what, plain(client), plain(text, REASON), times)
        if len(self._notices) > NOTICES:
            self._notices.popitem(last=False)


def named(clients: list[str]) -> str:
    """The first few clients by name, and how many more there are.

    >>> named(["10", "9", "1"]), named([str(client) for client in range(9)])
    ('1, 9, 10', '0, 1, 2, 3, 4 and 4 more')
    """
    shown = [plain(client) for client in sorted(clients, key=natural)[:NAMED]]
    return ", ".join(shown) + (f" and {len(clients) - NAMED} more" if len(clients) > NAMED else "")
