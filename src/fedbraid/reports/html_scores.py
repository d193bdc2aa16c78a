"""The scores that a data set is measured by, beside accuracy or in its place: their numbers and their figure."""

from __future__ import annotations

from fedbraid.evaluation import better, score_of
from fedbraid.reports.charts import Line, line_chart
from fedbraid.reports.html_numbers import Step
from fedbraid.reports.html_run import NARROW, Run, bands, figure, where


def score_tiles(run: Run) -> list[tuple[str, str, str]]:
    """(name, last value, its best and when) of every score but accuracy."""
    return [_tile(run, name) for name in run.other_scores]


def scores_figure(run: Run) -> str:
    """The scores after each evaluation, the main one in bold; nothing where accuracy is the only one."""
    names, evaluated = run.other_scores, [step for step in run.steps if step.scores]
    if not names or not evaluated:
        return ""
    # One axis: what is measured in another unit is in the table of rounds.
    drawn = [name for name in names if score_of(name).unit == score_of(names[0]).unit]
    main = score_of(names[0])

    def draw(width: float) -> str:
        wide = width > NARROW
        lines = [_line(evaluated, name, place, drawn) for place, name in enumerate(drawn)]
        return line_chart(
            lines[::-1],
            title="Scores over the run",
            description=". ".join(f"{line.name}: {line.value} at the end" for line in lines),
            width=width,
            height=360 if wide else 300,
            steps=len(run.steps),
            show=lambda value: f"{main.unit * value:g}",
            bands=bands(run),
            tips=[(step.place, _tip(run, step, names)) for step in evaluated],
        )

    caption = "Scores on the test samples after each evaluated communication round"
    caption += f", times {main.unit:g}." if main.unit > 1 else "."
    return figure("Scores over the run", caption, draw, full=True)


def _tile(run: Run, name: str) -> tuple[str, str, str]:
    score, values = score_of(name), {step.place: step.scores[name] for step in run.steps if name in step.scores}
    last = (run.results.get("scores") or {}).get(name, next(reversed(values.values()), None))
    if not values:
        return score.heading, score.text(last), "on the test samples"
    best = better(name, values.values())
    place = next(place for place, value in values.items() if value == best)
    return score.heading, score.text(last), f"after the last evaluation; best {score.text(best)}, after round {place}"


def _line(evaluated: list[Step], name: str, place: int, drawn: list[str]) -> Line:
    score, points = score_of(name), [(step.place, step.scores.get(name)) for step in evaluated]
    last = next((value for _, value in reversed(points) if value is not None), None)
    return Line(
        name=score.heading,
        value=score.text(last),
        points=points,
        kind="main" if place == 0 else "method",
        place=None if place == 0 else place / max(len(drawn) - 1, 1),
        dots=[(x, y) for x, y in points if y is not None and len(points) == 1],
    )


def _tip(run: Run, step: Step, names: list[str]) -> str:
    known = [(score_of(name), step.scores.get(name)) for name in names]
    return "\n".join([where(run, step), *(f"{score.heading}: {score.text(value)}" for score, value in known)])
