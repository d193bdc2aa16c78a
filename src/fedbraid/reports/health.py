"""Health signs: what in a run is worth a look, where it was seen, and what to do about it.

    aggregation noise      averaging the factors of a low-rank adapter loses more of an update than `noise`
    forgetting spike       an earlier task loses more than `forgetting` points while another is learned
    communication bloat    a client sends more numbers in a round than a stated `budget`

Pure functions of results and events: signs can be had anew with other thresholds, from what a run folder holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fedbraid.reports.deviations import Deviation, deviations
from fedbraid.reports.html_numbers import FIRST, counted, percent, task_name

Kind = Literal["noise", "forgetting", "budget"]
TITLES: Mapping[Kind, str] = {
    "noise": "Aggregation noise",
    "forgetting": "Forgetting spike",
    "budget": "Communication bloat",
}
"""What a sign is called; its threshold is `health.<kind>` in the configuration."""


@dataclass(frozen=True)
class Thresholds:
    """Above which a sign is given: a share of a layer's update, points of accuracy, numbers a client a round."""

    noise: float = 0.2
    forgetting: float = 20.0
    budget: float | None = None


@dataclass(frozen=True)
class Sign:
    """One sign: what was seen and where, in words and as numbers, and what to do. Tasks and rounds count from zero."""

    kind: Kind
    seen: str
    advice: str
    value: float
    threshold: float
    task: int
    phase: str
    round: int
    layer: str | None = None


@dataclass(frozen=True)
class Fall:
    """The deepest accuracy of an earlier task while another was learned: before, at its lowest, at the end."""

    earlier: int
    before: float
    lowest: float
    after: float
    at: Mapping[str, Any]

    @property
    def points(self) -> float:
        """Points lost at the lowest, without what fp64 adds to a difference of two shares."""
        return round(100 * (self.before - self.lowest), 9)


def signs(results: Mapping[str, Any], events: Sequence[Mapping[str, Any]], thresholds: Thresholds) -> list[Sign]:
    """All signs of a run, finished or not: noise and bloat once, forgetting once a task in which it was seen.

    >>> tested = [{"task": task, "phase": "train", "round": 0, "correct": correct, "total": [10] * len(correct)}
    ...           for task, correct in enumerate([[9], [4, 8]])]
    >>> [(sign.kind, sign.task, sign.value) for sign in signs({}, tested, Thresholds())]
    [('forgetting', 1, 50.0)]
    """
    return [*_noise(results, events, thresholds.noise), *_forgetting(events, thresholds), *_bloat(events, thresholds)]


def judged(results: Mapping[str, Any], events: Sequence[Mapping[str, Any]], thresholds: Thresholds) -> dict[str, Any]:
    """The signs as data, with the thresholds, and by kind the largest value that was judged."""
    falls = [fall.points for found in _falls(events).values() for fall in found]
    sent = [_numbers_up(event) for event in events if event.get("values_up")]
    largest = {
        "noise": _largest(share for one in _lossy(results, events) for share in one.relative.values()),
        "forgetting": _largest(falls),
        "budget": _largest(sent),
    }
    return {
        "thresholds": asdict(thresholds),
        "largest": {kind: value for kind, value in largest.items() if value is not None},
        "signs": [asdict(sign) for sign in signs(results, events, thresholds)],
    }


def by_kind(found: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Signs as data, those of a kind together, the worst of each kind first."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for sign in found:
        groups.setdefault(sign["kind"], []).append(sign)
    return [sorted(group, key=lambda sign: -sign["value"]) for group in groups.values()]


def place(sign: Mapping[str, Any]) -> str:
    """Where a sign was seen.

    >>> place({"task": 1, "phase": "train", "round": 0, "layer": "fc1"})
    'task 2, train 1, fc1'
    """
    layer = f", {sign['layer']}" if sign["layer"] else ""
    return f"{task_name(sign['task'])}, {sign['phase']} {sign['round'] + FIRST}{layer}"


def amount(kind: str, value: float) -> str:
    """A sign's value or threshold with its unit.

    >>> amount("noise", 0.434), amount("forgetting", 20.0), amount("budget", 360000), amount("budget", 812)
    ('43.4%', '20 points', '360 k numbers', '812 numbers')
    """
    if kind == "noise":
        return percent(value).replace(".0%", "%")
    if kind == "forgetting":
        return f"{value:.1f}".removesuffix(".0") + " points"
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit} numbers"
    return f"{value:.0f} numbers"


def worth(against: Mapping[str, Any]) -> str:
    """What the residual is worth, from two runs that differ in it alone."""
    reached = f"{against['score']} is {against['with']:.1f} with the residual and {against['without']:.1f} without it"
    lost = against["lost"]
    if lost > 0:
        return f"{reached}: {lost:.1f} points are lost without it"
    return f"{reached}: nothing is lost without it here"


def _noise(results: Mapping[str, Any], events: Sequence[Mapping[str, Any]], threshold: float) -> list[Sign]:
    rounds = _lossy(results, events)
    shares = [share for one in rounds for share in one.relative.values()]
    above = sum(share > threshold for share in shares)
    if not above:
        return []
    worst = max(rounds, key=lambda one: one.relative[one.worst])
    value = worst.relative[worst.worst]
    seen = f"Averaging the factors lost {percent(value)} of the mean update of {worst.worst}."
    if len(shares) > 1:
        verb = "is" if above == 1 else "are"
        seen += f" Of {len(shares)} values, one a layer and round, {above} {verb} above {amount('noise', threshold)}."
    advice = (
        "Restore it: fedex_lora, or fed_talora with method.residual = true, adds what is lost to the frozen weights. "
        "Or train one factor a round, so that nothing is lost: ffa_lora, rolora. Fewer training.epochs a round keep "
        "the clients closer together."
    )
    against = results.get("against")
    if against:
        seen += f" {worth(against)}."
    if against and against["lost"] <= 0:
        advice = f"It costs nothing between these two runs; compare them over several seeds first. {advice}"
    return [Sign("noise", seen, advice, value, threshold, worst.task, worst.phase, worst.round, worst.worst)]


def _lossy(results: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> list[Deviation]:
    """The deviations that the method leaves as they are; none where it restores them or merges in its own way."""
    kind = results.get("low_rank")
    return deviations(events) if kind and not (kind["exact"] or kind["own_merge"]) else []


def _forgetting(events: Sequence[Mapping[str, Any]], thresholds: Thresholds) -> list[Sign]:
    found: list[Sign] = []
    for task, falls in _falls(events).items():
        deep = sorted((fall for fall in falls if fall.points > thresholds.forgetting), key=lambda fall: -fall.points)
        if deep:
            found.append(_spike(task, deep, thresholds.forgetting))
    return found


def _spike(task: int, falls: Sequence[Fall], threshold: float) -> Sign:
    """The sign of a task in which these earlier ones fell, the deepest first."""
    worst, others = falls[0], falls[1:]
    seen = (
        f"{task_name(worst.earlier).capitalize()} fell from {percent(worst.before)} to {percent(worst.lowest)} while "
        f"{task_name(task)} was learned"
    )
    seen += f", and ended it at {percent(worst.after)}." if worst.after > worst.lowest else "."
    if others:
        names = [str(fall.earlier + FIRST) for fall in sorted(others, key=lambda fall: fall.earlier)]
        listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
        seen += f" So did {'tasks' if len(names) > 1 else 'task'} {listed}."
    if all(100 * (fall.before - fall.after) <= threshold for fall in falls):
        advice = (
            "It comes back by the end of the task, so only a model taken in between suffers. A lower training.lr or "
            "fewer training.epochs make the dip smaller."
        )
    else:
        advice = (
            "The one model is overwritten: lower training.lr or training.epochs, or choose a method that keeps earlier "
            "tasks: a closed-form merge (lorm), a penalty (ewc, lwf), kept samples (derpp), or sums over all tasks "
            "(afl, ranpac_fed)."
        )
    at = worst.at
    return Sign("forgetting", seen, advice, worst.points, threshold, task, str(at["phase"]), int(at["round"]))


def _falls(events: Iterable[Mapping[str, Any]]) -> dict[int, list[Fall]]:
    """By task: how far every earlier one fell, from the end of the task before to its lowest evaluation inside."""
    inside: dict[int, list[Mapping[str, Any]]] = {}
    for event in events:
        if event.get("total") and event.get("correct"):
            inside.setdefault(int(event["task"]), []).append(event)
    found: dict[int, list[Fall]] = {}
    for (before, earlier), (task, tested) in zip(inside.items(), list(inside.items())[1:], strict=False):
        for one in range(before + 1):
            start, *rows = (_accuracy(event, one) for event in (earlier[-1], *tested))
            known = [(value, event) for value, event in zip(rows, tested, strict=True) if value is not None]
            if start is not None and known:
                lowest, at = min(known, key=lambda pair: pair[0])
                found.setdefault(task, []).append(Fall(one, start, lowest, known[-1][0], at))
    return found


def _accuracy(event: Mapping[str, Any], task: int) -> float | None:
    known = task < len(event["total"]) and event["total"][task]
    return event["correct"][task] / event["total"][task] if known else None


def _bloat(events: Iterable[Mapping[str, Any]], thresholds: Thresholds) -> list[Sign]:
    rounds = [(_numbers_up(event), event) for event in events if event.get("values_up")]
    if thresholds.budget is None or not rounds:
        return []
    value, worst = max(rounds, key=lambda pair: pair[0])
    above = sum(sent > thresholds.budget for sent, _ in rounds)
    if not above:
        return []
    seen = (
        f"A client sent {amount('budget', value)} in one round, {value / thresholds.budget:.3g} times the budget; "
        f"the budget was passed in {above} of {counted(len(rounds), 'round')}."
    )
    advice = (
        "Send less: a smaller adapter.rank, fewer adapter.blocks or adapter.layers, one factor a round (ffa_lora, "
        "rolora), or a small core alone (fed_sb)."
    )
    phase, index = str(worst["phase"]), int(worst["round"])
    return [Sign("budget", seen, advice, value, thresholds.budget, int(worst["task"]), phase, index)]


def _numbers_up(event: Mapping[str, Any]) -> float:
    """The numbers that a client sent in the round, mean over its clients."""
    return sum(event["values_up"].values()) / len(event["values_up"])


def _largest(values: Iterable[float]) -> float | None:
    return max(values, default=None)
