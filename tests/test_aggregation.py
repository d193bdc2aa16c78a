"""What the residual is worth: which two runs differ in it alone, and by how much."""

from __future__ import annotations

import digit_runs
import pytest
from typer.testing import CliRunner

from fedbraid import config, runs
from fedbraid.aggregation import against, low_rank, pairs
from fedbraid.cli import app
from fedbraid.errors import UserError
from fedbraid.experiment import build
from fedbraid.reports import records

SMALL = [*digit_runs.SMALL, "training.rounds=1", "adapter.blocks=0"]


def run(*settings, **results):
    """A finished run as its configuration and its results."""
    return config.read("", settings), {"finished": True, "faa": 0.5, "scores": {"accuracy": 0.5}, **results}


TALORA = ["method.name=fed_talora"]


@pytest.mark.parametrize(
    ("exact", "plain"),
    [(["method=fedex_lora"], ["method=fedit"]), (TALORA, [*TALORA, "method.residual=false"])],
)
def test_two_runs_say_what_the_residual_is_worth(exact, plain):
    ours, theirs = run(*exact, faa=0.8), run(*plain, "health.noise=0.1", "run.threads=2", faa=0.75)
    for first, other in ((ours, theirs), (theirs, ours)):
        found = against(first, other, "other")
        assert (found["run"], found["score"]) == ("other", "FAA")
        assert (found["with"], found["without"], found["lost"]) == pytest.approx((80.0, 75.0, 5.0))


def test_a_bounded_residual_is_not_called_exact_round_by_round():
    for rank, exact in ((0, True), (2, False)):
        found = low_rank(build(config.read("", [*SMALL, "method=fedex_lora", f"method.residual_rank={rank}"])))
        assert found["low_rank"] == {"both": True, "exact": exact, "own_merge": not exact}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=fedex_lora"], "fedex_lora and fedex_lora are not one method with the residual and without it"),
        (["method=ffa_lora"], "not one method"),
        ([*TALORA, "method.residual=false"], "not one method"),
        (["method=fedit", "training.lr=0.5", "run.seed=1"], r"the runs also differ in training\.lr, run\.seed"),
    ],
)
def test_runs_that_differ_in_more_are_refused(settings, message):
    with pytest.raises(UserError, match=f"other cannot say what the residual of this run is worth: .*{message}"):
        against(run("method=fedex_lora"), run(*settings), "other")


def test_an_unfinished_run_is_refused():
    with pytest.raises(UserError, match="must both be finished"):
        against(run("method=fedex_lora"), run("method=fedit", finished=False), "other")


def test_the_main_score_counts_and_less_of_a_loss_is_better():
    scores = [{"faa": None, "scores": {"loss": value, "bleu": 0.5}, "score": value} for value in (1.0, 1.5)]
    found = against(run("method=fedex_lora", **scores[0]), run("method=fedit", **scores[1]), "other")
    assert (found["score"], found["with"], found["lost"]) == ("loss", 1.0, 0.5)


def test_pairs_are_means_over_the_seeds_that_both_have():
    seeds = [[f"run.seed={seed}"] for seed in range(3)]
    exact = [run("method=fedex_lora", *seed, faa=0.8 + 0.1 * n) for n, seed in enumerate(seeds[:2])]
    plain = [run("method=fedit", *seed, faa=0.7) for seed in seeds]
    (found,) = pairs([*plain, *exact, run("method=lorm"), run("method=fedit", "training.lr=0.5")])
    assert (found["run"], found["seeds"]) == ("fedex_lora and fedit", 2)
    assert found["lost"] == pytest.approx(15.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One task-agnostic adapter, with the residual and without it."""
    held = {}
    for name, more in (("with", []), ("without", ["method.residual=false"])):
        held[name] = tmp_path_factory.mktemp("residual") / name
        for _ in runs.start(config.read("", [*SMALL, *TALORA, *more]), held[name]).events():
            pass
    return held


def test_results_tell_the_deviation_and_the_signs(folders):
    results = runs.read_results(folders["without"])
    assert results["low_rank"] == {"both": True, "exact": False, "own_merge": False}
    assert runs.read_results(folders["with"])["low_rank"]["exact"]
    assert 0 < results["deviation_mean"] <= results["deviation_max"]
    assert results["health"]["largest"]["noise"] == results["deviation_max"]
    assert results["health"]["thresholds"] == {"noise": 0.2, "forgetting": 20.0, "budget": None}


def test_a_report_judges_anew_and_leaves_the_results(folders):
    before = (folders["without"] / "results.json").read_bytes()
    results = runs.judge(folders["without"], ["health.noise=0", "health.budget=1"], folders["with"])
    assert {"noise", "budget"} <= {sign["kind"] for sign in results["health"]["signs"]}
    page = runs.write_report(folders["without"], results).read_text()
    assert "Beside the run with, FAA is" in page
    assert "Communication bloat" in page
    assert "Communication bloat" not in runs.write_report(folders["without"]).read_text()
    assert (folders["without"] / "results.json").read_bytes() == before


def test_the_command_line_tells_signs_and_worth_beside_its_output(folders):
    run, other = map(str, (folders["without"], folders["with"]))
    reported = CliRunner().invoke(app, ["report", run, "--against", other, "--set", "health.noise=0"])
    assert reported.exit_code == 0
    assert reported.stdout.split() == [f"{run}/report.html"]
    assert "aggregation noise" in reported.stderr
    assert "without it" in reported.stderr
    compared = CliRunner().invoke(app, ["compare", run, other])
    assert len(compared.stdout.splitlines()) == 3
    assert "fed_talora residual=true and fed_talora residual=false: FAA is" in compared.stderr


def test_a_report_changes_nothing_but_thresholds(folders):
    with pytest.raises(UserError, match=r"changes thresholds alone.*training\.lr=1 needs a new run"):
        runs.judge(folders["with"], ["training.lr=1"])


def test_an_unfinished_run_has_signs_and_its_own_thresholds(tmp_path):
    started = runs.start(config.read("", [*SMALL, "method=ffa_lora", "health.budget=1"]), tmp_path / "run")
    events = started.events()
    next(events), next(events)
    results = runs.read_results(started.folder)
    assert not results["finished"]
    assert results["low_rank"] == {"both": False, "exact": True, "own_merge": False}
    assert [sign["kind"] for sign in results["health"]["signs"]] == ["budget"]
    assert len(records.read(started.folder / "events.jsonl")) == 2


def test_a_run_without_low_rank_factors_says_nothing_of_them(tmp_path):
    started = runs.start(config.read("", [*SMALL, "method=afl", "adapter.blocks="]), tmp_path / "run")
    assert "low_rank" not in runs.read_results(started.folder)
