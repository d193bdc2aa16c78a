"""What a run does to low-rank factors, and what the residual is worth: two runs that differ in it alone.

The mean of the factors is not the mean of the updates (see `merges.fedex`). Some methods add the difference, the
residual, to the frozen weights; the same run without it says what that is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from fedbraid import config as configs
from fedbraid.config import Config
from fedbraid.engine import schedule
from fedbraid.errors import UserError
from fedbraid.evaluation import score_of
from fedbraid.experiment import Experiment
from fedbraid.phases import Train
from fedbraid.reports.tables import flat

FREE = (
    "method.",
    "health.",
    "rounds.",
    "gate.",
    "run.device",
    "run.threads",
    "run.runtime",
    "run.at_once",
    "run.gpus",
    "run.ray",
)
"""Keys that may differ between the two."""

Pair = tuple[Config, Mapping[str, Any]]
"""A run as its configuration and its results."""


def low_rank(experiment: Experiment) -> dict[str, object]:
    """What the report must know of a run with a LoRA or LoRA-XS adapter; nothing of another.

    `both`: whether there are rounds in which clients train both factors, so that averaging them can lose something;
    `exact`: whether the merged update is the mean of the updates; `own_merge`: whether a rule loses something else.
    """
    if experiment.model.adapter.kind not in ("lora", "lora_xs"):
        return {}
    rounds = schedule(experiment.method, experiment.tasks, experiment.config.run.seed)
    trained = [(phase.kinds(round), phase.merge.loses()) for round, phase in rounds if isinstance(phase, Train)]
    both = any({"lora_A", "lora_B"} <= set(kinds) for kinds, _ in trained)
    lost = {loses for _, loses in trained}
    exact = lost <= ({"nothing"} if both else {"nothing", "cross terms"})
    return {"low_rank": {"both": both, "exact": exact, "own_merge": "its own" in lost}}


def against(run: Pair, other: Pair, name: str) -> dict[str, Any]:
    """What the residual is worth, for the results of a run: the main score with and without it, as scores are shown.

    `name` is what the other run is called. Raises `UserError` where the two differ in more than the residual.
    """
    exact, plain = (run, other) if _restores(run[0]) else (other, run)
    fault = _fault(exact[0], plain[0])
    if fault:
        raise UserError(f"{name} cannot say what the residual of this run is worth: {fault}")
    if not (exact[1].get("finished") and plain[1].get("finished")):
        raise UserError(f"{name} and this run must both be finished to say what the residual is worth")
    return {"run": name, **_worth([exact[1]], [plain[1]])}


def pairs(runs: Sequence[Pair]) -> list[dict[str, Any]]:
    """What the residual is worth among these runs, for every setting that was run with it and without it.

    Scores are means over the seeds that both have.
    """
    found: dict[str, list[tuple[Pair, Pair]]] = {}
    for exact in runs:
        for plain in runs:
            finished = exact[1].get("finished") and plain[1].get("finished")
            if _restores(exact[0]) and finished and not _fault(exact[0], plain[0]):
                setting = repr(sorted(_fixed(exact[0], "run.seed").items())) + repr(exact[0].method)
                found.setdefault(setting, []).append((exact, plain))
    return [
        {"run": f"{_label(both[0][0][0])} and {_label(both[0][1][0])}", "seeds": len(both)}
        | _worth([exact[1] for exact, _ in both], [plain[1] for _, plain in both])
        for both in found.values()
    ]


def _restores(config: Config) -> bool:
    return configs.options(config).without_residual is not None


def _fault(exact: Config, plain: Config) -> str:
    """Why the second is not the first without the residual; empty where it is."""
    if configs.options(exact).without_residual != configs.options(plain):
        return f"{_label(exact)} and {_label(plain)} are not one method with the residual and without it"
    here, there = _fixed(exact), _fixed(plain)
    keys = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    return f"the runs also differ in {', '.join(keys)}" if keys else ""


def _fixed(config: Config, *free: str) -> dict[str, Any]:
    """What must not differ."""
    return {key: value for key, value in flat(config.model_dump()).items() if not key.startswith((*FREE, *free))}


def _label(config: Config) -> str:
    """The method, and whether its residual is on where that is an option."""
    name, residual = config.method["name"], config.method.get("residual")
    return name if residual is None else f"{name} residual={str(residual).lower()}"


def _worth(exact: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of the main score, and how much better it is with the residual."""
    key = "faa" if "faa" in exact[0] and next(iter(exact[0].get("scores") or ["accuracy"])) == "accuracy" else "score"
    score = score_of("accuracy" if key == "faa" else next(iter(exact[0]["scores"])))
    ours, theirs = (score.unit * fmean(results[key] for results in side) for side in (exact, plain))
    lost = ours - theirs if score.more_is_better else theirs - ours
    return {"score": "FAA" if key == "faa" else score.heading, "with": ours, "without": theirs, "lost": lost}
