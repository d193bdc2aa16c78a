"""Runs on pairs, on numbers and on streams with scores of their own: from files to results, report and prediction."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fedbraid import config, runs
from fedbraid.cli import app
from fedbraid.errors import UserError
from fedbraid.export import predict_run
from fedbraid.reports import console, records, tables
from fedbraid.testing.worlds import WORDS, random_bert

SMALL = ["method=fedit", "partition.clients=2", "partition.min_samples=1", "training.rounds=2", "training.epochs=1"]
PAIRS = ["data.pair_column=second"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return random_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """24 pairs with a class of three and a number each."""
    path = tmp_path_factory.mktemp("data") / "own.csv"
    lines = [f"{WORDS[i % 12]} the,{WORDS[(i * 5) % 12]} and a,{i % 2},{i % 3},{i / 7:.2f}" for i in range(24)]
    path.write_text("\n".join(["text,second,label,topic,likeness", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def finished(bert, table, tmp_path_factory):
    """Run folders by name."""
    folder = tmp_path_factory.mktemp("runs")
    asked = {
        "pairs": [*PAIRS, 'data.scores=["accuracy","f1"]'],
        "numbers": [*PAIRS, "data.label_column=likeness", 'data.scores=["pearson","spearman"]'],
        "stream": ["data.label_column=topic", 'data.scores=["macro_f1","matthews"]', "stream.sizes=[2,1]"],
        "joint": ["data.label_column=topic", 'data.scores=["macro_f1"]', "stream.sizes=[2,1]", "method=joint"],
    }
    for name, more in asked.items():
        run = runs.start(settings(bert, table, *more), folder / name)
        assert len(list(run.events())) == run.experiment.rounds
    return {name: folder / name for name in asked}


def settings(bert, table, *more):
    return config.read("", [f"data.name={table}", f"backbone.name={bert}", *SMALL, *more])


def results_and_events(folder):
    return runs.read_results(folder), records.read(folder / "events.jsonl")


def test_a_run_on_pairs_has_accuracy_and_f1(finished):
    results, events = results_and_events(finished["pairs"])
    assert (results["pairs"], results["score_names"]) == (True, ["accuracy", "f1"])
    assert list(results["scores"]) == ["accuracy", "f1"]
    assert results["score"] == results["scores"]["accuracy"] == results["faa"]
    told = [event["scores"]["f1"] for event in events if event["scores"]]
    assert (results["scores"]["f1"], results["best_scores"]["f1"]) == (told[-1], max(told))


def test_a_run_on_numbers_has_no_accuracy(finished):
    results, events = results_and_events(finished["numbers"])
    assert not {"faa", "aia", "forgetting", "accuracy_matrix", "accuracy_by_task"} & set(results)
    assert (results["tasks"], results["task_classes"]) == (1, [["value"]])
    assert list(results["scores"]) == ["pearson", "spearman"]
    evaluated = [event for event in events if event["scores"]]
    assert len(evaluated) == 2
    assert all(event["correct"] is None and event["total"] is None for event in events)
    assert all(event["loss"] > 0 for event in evaluated)


def test_squared_errors_become_less(bert, table, tmp_path):
    asked = [*PAIRS, "data.label_column=likeness", 'data.scores=["pearson"]', "training.rounds=4", "training.lr=0.03"]
    run = runs.start(settings(bert, table, *asked), tmp_path / "run")
    losses = [loss for event in run.events() if (loss := records.record(event)["loss"]) is not None]
    assert losses[-1] < 0.7 * losses[0]


def test_a_stream_has_its_scores_after_every_task(finished):
    results, events = results_and_events(finished["stream"])
    assert [len(row) for row in results["accuracy_matrix"]] == [1, 2]
    assert list(results["scores"]) == ["macro_f1", "matthews"]
    assert all(event["scores"]["accuracy"] == sum(event["correct"]) / sum(event["total"]) for event in events[1:3])
    joint = runs.read_results(finished["joint"])
    assert (len(joint["accuracy_matrix"][0]), list(joint["scores"])) == (2, ["macro_f1"])


@pytest.mark.parametrize(
    ("name", "shown", "absent"),
    [
        ("numbers", ["Pearson", "Spearman", "Scores over the run"], ["FAA", "Forgetting", "Accuracy"]),
        ("pairs", ["FAA", "F1", "Scores over the run", "Accuracy over the run"], ["Pearson"]),
        ("stream", ["macro-F1", "Matthews", "Forgetting"], []),
    ],
)
def test_the_report_shows_what_was_measured(finished, name, shown, absent):
    page = (finished[name] / "report.html").read_text()
    body = page[page.index("<main>") : page.index('<section class="made">')]
    text = body + page[page.index('<section class="data">') : page.index("<script>")]
    assert all(word in text for word in shown)
    assert not [word for word in absent if word in text]


def test_the_main_score_stands_first(finished):
    page = (finished["stream"] / "report.html").read_text()
    assert page.index("<dt>macro-F1</dt>") < page.index("<dt>FAA</dt>")
    page = (finished["pairs"] / "report.html").read_text()
    assert page.index("<dt>FAA</dt>") < page.index("<dt>F1</dt>")


@pytest.mark.parametrize(
    ("name", "line", "word"),
    [("numbers", "Pearson", "Spearman"), ("pairs", "accuracy", "F1"), ("stream", "macro-F1", "FAA")],
)
def test_a_terminal_shows_the_main_score(finished, name, line, word):
    results, events = results_and_events(finished[name])
    assert line in console.round_line(events[-1], results["tasks"], results["score_names"][0])
    out = Console(file=io.StringIO(), width=160)
    console.final_table(out, results, finished[name])
    text = out.file.getvalue()
    assert word in text
    assert ("FAA" in text) == (name != "numbers")


def test_an_unfinished_run_on_numbers_can_be_read(bert, table, tmp_path):
    asked = [*PAIRS, "data.label_column=likeness", 'data.scores=["spearman"]']
    run = runs.start(settings(bert, table, *asked), tmp_path / "run")
    next(events := run.events())
    assert "scores" not in runs.read_results(run.folder)
    assert "In progress" in runs.write_report(run.folder).read_text()
    next(events)
    assert list(runs.read_results(run.folder)["scores"]) == ["spearman"]
    assert "Spearman" in runs.write_report(run.folder).read_text()


def test_runs_are_compared_by_their_scores(finished):
    found = {name: runs.read_results(folder) for name, folder in finished.items()}
    columns = [key for key, _, _ in tables.columns_of([found["numbers"]])]
    assert columns[:2] == ["pearson", "spearman"]
    assert "faa" not in columns
    assert [key for key, _, _ in tables.columns_of([found["pairs"]])][:2] == ["f1", "faa"]
    out = CliRunner().invoke(app, ["compare", str(finished["numbers"])])
    assert out.exit_code == 0
    assert out.output.startswith("setting\truns\tPearson\tSpearman")


def test_prediction_takes_pairs_and_gives_numbers(finished):
    (row,) = predict_run(finished["numbers"], ["cat the\tdog and a"])
    assert set(row) == {"input", "value"}
    (row,) = predict_run(finished["pairs"], ["cat the\tdog and a"])
    assert row["label"] in ("0", "1")
    with pytest.raises(UserError, match="put a tab between two"):
        predict_run(finished["pairs"], ["cat the"])
    out = CliRunner().invoke(app, ["predict", str(finished["numbers"]), "cat\tdog"])
    assert out.output.rstrip().split("\t")[1:] == ["cat\\tdog"]  # a tab of the input must not look like a column
    assert float(out.output.split("\t")[0]) == pytest.approx(
        predict_run(finished["numbers"], ["cat\tdog"])[0]["value"], abs=1e-3
    )


@pytest.mark.parametrize("method", ["afl", "lwf", "ccvr"])
def test_methods_that_learn_classes_refuse_numbers(bert, table, tmp_path, method):
    asked = ["data.label_column=likeness", 'data.scores=["pearson"]', f"method={method}"]
    with pytest.raises(UserError, match=rf"method '{method}' learns classes, and 'own' holds numbers"):
        runs.start(settings(bert, table, *asked), tmp_path / "run")
