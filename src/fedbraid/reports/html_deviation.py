"""What averaging the factors of a low-rank adapter loses, by layer and round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from fedbraid.reports.chart_layers import Scale, layer_map, short_names
from fedbraid.reports.charts import Line
from fedbraid.reports.deviations import Deviation, deviations, layers_of
from fedbraid.reports.health import worth
from fedbraid.reports.html_numbers import FIRST, Step, percent, task_name
from fedbraid.reports.html_run import NARROW, Run, bands, figure, no_figure, where
from fedbraid.reports.html_tables import folded_table

TITLE = "Deviation by layer and round"
LISTED = 8
"""So many layers a tooltip lists."""

WHAT = (
    "A client's update of a layer is a product B·A. Averaging all B and all A apart gives another product than the "
    "average of the updates. Map: this difference, in percent of the average update, a row a layer, a column a round. "
    "Curves: the size of a typical entry of the difference (its scaled Frobenius norm)."
)
SOURCE = (
    "After Singhal et al., FedEx-LoRA, ACL 2025 (arXiv 2410.09432); norms are estimated by random projections, with "
    "a standard error of at most an eighth."
)
BY_CONSTRUCTION = (
    "Zero by construction: in every round clients train only one of the factors and share the others, so the product "
    "of the averages is the average of the products."
)


def deviation_figure(run: Run, events: Sequence[Mapping[str, Any]]) -> str:
    """Map and curves of the deviation; a sentence where it is zero, nothing for a run without low-rank factors."""
    kind, found = run.results.get("low_rank"), deviations(events)
    if found and max(one.relative[one.worst] for one in found) < 1e-9:
        return no_figure(TITLE, "Nothing was lost: in no round did the updates of clients differ.", full=True)
    if found:
        return _drawn(run, found, kind or {})
    if kind and not kind["both"]:
        return no_figure(TITLE, BY_CONSTRUCTION, full=True)
    return ""


def deviation_table(events: Sequence[Mapping[str, Any]]) -> str:
    """By layer: mean and largest share, where that was, and the mean size; folded away, empty without a deviation."""
    found = deviations(events)
    rows: list[list[str]] = []
    for layer in layers_of(found):
        held = [one for one in found if layer in one.relative]
        worst = max(held, key=lambda one: one.relative[layer])
        at = f"{task_name(worst.task)}, {worst.phase} {worst.round + FIRST}"
        shares, sizes = fmean(one.relative[layer] for one in held), fmean(one.scaled[layer] for one in held)
        rows.append([layer, at, percent(worst.relative[layer]), percent(shares), f"{sizes:.2e}"])
    head = ["layer", "largest in", "largest share", "mean share", "mean scaled norm"]
    return folded_table("Deviation by layer", head, rows, words=2)


def _drawn(run: Run, found: Sequence[Deviation], kind: Mapping[str, Any]) -> str:
    layers, by_step = layers_of(found), {(one.task, one.phase, one.round): one for one in found}
    rounds = [(step, by_step.get((step.task, step.phase, step.round))) for step in run.steps]
    shares = [[one.relative.get(layer) if one else None for _, one in rounds] for layer in layers]
    largest = max(found, key=lambda one: one.relative[one.worst])
    top, mean = largest.relative[largest.worst], fmean(v for one in found for v in one.relative.values())
    mark = ((run.results.get("health") or {}).get("thresholds") or {}).get("noise")
    kept = bool(kind.get("exact") or kind.get("own_merge"))
    scale = Scale(max(top, mark or 0.0), None if kept else mark, "kept" if kept else "lost")

    def draw(width: float) -> str:
        return layer_map(
            shares,
            layers,
            _curves(rounds, scale.kind, many=len(layers) > 1, wide=width > NARROW),
            title=TITLE,
            description=f"Mean {percent(mean)} over layers and rounds; at most {percent(top)}, in {largest.worst}.",
            width=width,
            scale=scale,
            show=lambda value: f"{value:g}",
            heading="typical entry of the difference",
            bands=bands(run),
            tips=[(step.place, _tip(run, step, one)) for step, one in rounds],
        )

    worst = f"Mean {percent(mean)}; at most {percent(top)}, in {largest.worst}."
    return figure(TITLE, " ".join([WHAT, worst, *_meaning(run, kind), SOURCE]), draw, full=True)


def _meaning(run: Run, kind: Mapping[str, Any]) -> list[str]:
    """What becomes of the difference under this method, and what it costs where a counterpart says so."""
    told: list[str] = []
    if kind.get("exact"):
        told.append("This method restores it: nothing of what is shown is lost.")
    elif kind.get("own_merge"):
        told.append("This method merges in its own way: shown is what averaging would lose.")
    elif kind:
        told.append("This method loses what is shown.")
    against = run.results.get("against")
    return [*told, f"Beside the run {against['run']}, {worth(against)}."] if against else told


def _curves(rounds: Sequence[tuple[Step, Deviation | None]], kind: str, *, many: bool, wide: bool) -> list[Line]:
    """The mean over layers, and the largest layer where there are several."""
    mean = [(step.place, fmean(one.scaled.values()) if one else None) for step, one in rounds]
    most = [(step.place, max(one.scaled.values()) if one else None) for step, one in rounds]
    names = ("largest layer", "mean of layers") if wide else ("largest", "mean")
    drawn = [(names[0], most, kind), (names[1], mean, "main")] if many else [("size", mean, "main")]
    lines: list[Line] = []
    for name, points, look in drawn:
        last = next(value for _, value in reversed(points) if value is not None)
        lines.append(Line(name, f"{last:.1e}" if wide else "", points, look))
    return lines


def _tip(run: Run, step: Step, one: Deviation | None) -> str:
    if one is None:
        return f"{where(run, step)}\nno factors were averaged"
    order = sorted(one.relative, key=lambda layer: -one.relative[layer])
    names = dict(zip(order, short_names(order), strict=True))
    listed = [f"{names[layer]}: {percent(one.relative[layer])}" for layer in order[:LISTED]]
    if len(order) > 1:
        listed.insert(0, f"mean of {len(order)} layers: {percent(fmean(one.relative.values()))}; the largest:")
    return "\n".join([where(run, step), *listed])
