"""Grids: what their files say, how runs are laid out, chosen, continued and gathered."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from fedbraid import config as configs
from fedbraid import grids
from fedbraid.cli import app
from fedbraid.errors import UserError
from fedbraid.grids import cells, choose, pool, progress, results
from fedbraid.grids.pool import Ended, Report, Running
from fedbraid.reports.table import notes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXAMPLE = Path(__file__).parent.parent / "examples" / "digits.toml"
TINY = {"train_per_class": 10, "test_per_class": 5, "classes": 4}
SMALL = {"data": TINY, "stream": {"tasks": 2}, "partition": {"clients": 2, "min_samples": 1}}

GRID = """
title = "A table"
seeds = [3, 5]
[common]
training.rounds = 2
method.name = "lorm"
method.ridge = 0.5
[data.One]
data.name = "digits"
[data.Two]
data.name = "digits"
training.rounds = 1
[methods.LoRM]
method.name = "lorm"
training.lr = 0.25
[methods."Fed IT"]
method = "fedit"
"""
CHOOSE = """
[choose]
fraction = 0.25
seed = 7
grid.training.lr = [0.001, 0.01, 0.1]
"""


def written(folder, text):
    path = folder / "grid.toml"
    path.write_text(text)
    return path


def planned(folder, text=GRID, **more):
    return grids.plan(grids.read(written(folder, text)), folder / "out", **more)


def stub(score, *, fails=lambda cell: False):
    """An executor that runs nothing: it writes the results that `score` gives a cell, and notes what it was given."""
    given = []

    def execute(wanted):
        for cell in wanted:
            given.append(cell)
            cell.folder.mkdir(parents=True, exist_ok=True)
            cell.request.write_text(configs.to_toml(cell.config))
            (cell.folder / "config.toml").write_text(configs.to_toml(cell.config))
            if fails(cell):
                cell.error.write_text("a warning\nfedbraid: too hot\ncontinue with: fedbraid resume\n")
                yield Report([Ended(cell, 1.0, "too hot")], [])
                continue
            cell.error.unlink(missing_ok=True)
            found = {"finished": True, "faa": score(cell), "aia": 0.5, "forgetting": 0.1, "seconds": 9.0}
            costs = {"bytes_up_per_client": 1e6, "bytes_down_per_client": 1e6}
            about = {"accuracy_by_task": [0.5], "tasks": 1, "task_mean_accuracy": 0.5}
            (cell.folder / "results.json").write_text(json.dumps(found | costs | about))
            yield Report([Ended(cell, 2.0)], [])

    execute.given = given
    return execute


def by_rate(cell):
    """Best at 0.01, worse at 0.1 and 0.001 alike; a little better with a greater seed."""
    return {0.01: 0.8, 0.25: 0.6}.get(cell.config.training.lr, 0.4) + 0.01 * cell.config.run.seed


def ran(plan, execute):
    return [ended for report in grids.fill(plan, execute) for ended in report.ended]


def test_values_are_laid_over_one_another(tmp_path):
    rows = planned(tmp_path).rows
    assert [(row.data, row.method) for row in rows] == [
        ("One", "LoRM"),
        ("One", "Fed IT"),
        ("Two", "LoRM"),
        ("Two", "Fed IT"),
    ]
    assert [row.values["training.rounds"] for row in rows] == [2, 2, 1, 1]
    assert rows[0].values["method.ridge"] == 0.5
    assert "method.ridge" not in rows[1].values


def test_a_base_is_below_everything(tmp_path):
    row = planned(tmp_path, f'base = "lorm/cifar100-b0.5"\n{GRID}').rows[0]
    assert row.values["partition.clients"] == 10
    assert (row.values["training.rounds"], row.values["data.name"]) == (2, "digits")
    assert row.values["method.gram_data"] == "augmented"


def test_cells_are_one_folder_a_seed(tmp_path):
    plan = planned(tmp_path)
    found = plan.cells(plan.rows[1], {})
    assert [str(cell.folder.relative_to(plan.folder)) for cell in found] == [
        "runs/One/Fed-IT/seed-3",
        "runs/One/Fed-IT/seed-5",
    ]
    assert [cell.config.run.seed for cell in found] == [3, 5]
    assert found[0].config.method == {"name": "fedit"}


def test_threads_are_set_where_the_grid_says_nothing(tmp_path):
    assert planned(tmp_path, threads=1).rows[0].values["run.threads"] == 1
    own = GRID.replace("[common]", "[common]\nrun.threads = 3")
    assert planned(tmp_path, own, threads=1).rows[0].values["run.threads"] == 3


def test_environment_variables_are_read(tmp_path, monkeypatch):
    text = GRID.replace('data.name = "digits"', 'data.name = "${MY_DATA}/table.csv"', 1)
    with pytest.raises(UserError, match=r"grid\.toml: data: One: .*no environment variable MY_DATA; set it"):
        planned(tmp_path, text)
    monkeypatch.setenv("MY_DATA", "/here")
    assert planned(tmp_path, text).rows[0].values["data.name"] == "/here/table.csv"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("seeds =", "sedes =", r"grid\.toml: unknown key 'sedes' \(did you mean 'seeds'\?\)"),
        ('title = "A table"', "", r"grid\.toml: title: field required"),
        ("[3, 5]", "[3, 3]", r"a seed stands twice"),
        ("[3, 5]", "[-1]", r"seeds\.0 = -1: input should be greater than or equal to 0"),
        ("[3, 5]", '[3]\ncolumns = ["fa"]', r"columns\.0: there is no column 'fa' \(did you mean 'faa'\?\)"),
        ("training.lr =", "training.lrr =", r"LoRM on One: unknown key 'training\.lrr' \(did you mean 'lr'\?\)"),
        ("training.lr =", "lr =", r"methods\.LoRM: 'lr' is no section\.key"),
        ("training.lr =", "run.seed =", r"methods\.LoRM: 'run\.seed' is not set here but by `seeds`"),
        ('LoRM]\nmethod.name = "lorm"', "LoRM]", r"methods\.LoRM: the row names no method"),
        ('"fedit"', '"fedti"', r"Fed IT on One: unknown method 'fedti' \(did you mean 'fedit'\?\)"),
        ('method.name = "lorm"\nmethod', "method", r"method 'fedit' has no option 'ridge'"),
        ('"fedit"', '"fedit"\nchoose = 3', r"methods\.Fed IT\.choose: 3 is no table"),
        ('"Fed IT"', '"lorm!"', r"the labels 'LoRM' and 'lorm!' make one folder name"),
        (
            "title",
            "[choose]\nfractoin = 1\n[other]\ntitle",
            r"unknown key 'choose\.fractoin' \(did you mean 'fraction'",
        ),
        ("seeds", 'base = "lorm/cifar10-b0.5"\nseeds', r"did you mean 'lorm/cifar100-b0.5'"),
        ("title", "[title", r"grid\.toml is no valid TOML"),
    ],
)
def test_errors_name_the_key_and_what_to_do(tmp_path, before, after, message):
    assert before in GRID
    with pytest.raises(UserError, match=message):
        planned(tmp_path, GRID.replace(before, after, 1))


def test_a_missing_grid_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the grid file .*none\.toml"):
        grids.read(tmp_path / "none.toml")


def test_the_points_of_a_grid_use_training_data_alone(tmp_path):
    text = GRID.replace('method = "fedit"', 'method = "fedit"\nchoose = false') + CHOOSE
    text = text.replace("training.lr = 0.25", "choose.method.ridge = [0.1, 0.2]")
    lorm, fedit = planned(tmp_path, text).rows[:2]
    assert fedit.points == []
    assert [(p.values["training.lr"], p.values["method.ridge"]) for p in lorm.points] == [
        (rate, ridge) for rate in (0.001, 0.01, 0.1) for ridge in (0.1, 0.2)
    ]
    cell = lorm.points[1].cell
    assert cell.folder.relative_to(tmp_path / "out" / "choose") == Path("One/LoRM/training.lr=0.001,method.ridge=0.2")
    assert (cell.config.data.validation_fraction, cell.config.run.seed) == (0.25, 7)


def test_the_best_point_is_used_for_all_seeds(tmp_path):
    plan = planned(tmp_path, GRID + CHOOSE)
    execute = stub(by_rate)
    assert len(ran(plan, execute)) == 4 * (3 + 2)
    own = [cell for cell in execute.given if "runs" in cell.folder.parts]
    assert [(cell.config.training.lr, cell.config.data.validation_fraction) for cell in own] == [(0.01, None)] * 8
    chosen = tomllib.loads((plan.folder / "chosen.toml").read_text())
    scores = chosen["Two"]["Fed IT"].pop("faa")
    assert scores == pytest.approx({"training.lr=0.001": 0.47, "training.lr=0.01": 0.87, "training.lr=0.1": 0.47})
    assert chosen["Two"]["Fed IT"] == {"chosen": {"training.lr": 0.01}, "at_edge": []}
    told = notes(grids.table(plan))
    assert "Chosen on One: LoRM with training.lr = 0.01; Fed IT with training.lr = 0.01." in told


def test_ties_go_to_the_first_and_edges_are_told(tmp_path):
    plan = planned(tmp_path, GRID + CHOOSE)
    ran(plan, stub(lambda cell: 0.5))
    choice = choose.choose(plan, plan.rows[0])
    assert (choice.values, choice.edges) == ({"training.lr": 0.001}, ["training.lr"])
    assert "training.lr = 0.001 (at the edge of the grid)" in "\n".join(notes(grids.table(plan)))


def test_a_point_that_fails_is_worse_than_all_others(tmp_path):
    plan = planned(tmp_path, GRID + CHOOSE)
    ran(plan, stub(by_rate, fails=lambda cell: cell.config.training.lr == 0.01))
    choice = choose.choose(plan, plan.rows[0])
    assert choice.values == {"training.lr": 0.001}
    assert choice.failed == {"training.lr=0.01": "too hot"}
    assert not grids.table(plan).failed


def test_a_row_without_any_point_fails_and_the_others_go_on(tmp_path):
    plan = planned(tmp_path, GRID + CHOOSE)
    ended = ran(plan, stub(by_rate, fails=lambda cell: cell.method == "LoRM"))
    assert len(ended) == 4 * (3 + 2)
    lorm, fedit = grids.table(plan).on("One")
    assert lorm.failures == {"choosing": "no point of the grid has finished; the first: too hot"}
    assert set(fedit.results) == {3, 5}


def test_a_failing_cell_is_told_and_tried_again(tmp_path):
    plan = planned(tmp_path)
    ran(plan, stub(by_rate, fails=lambda cell: cell.config.run.seed == 5))
    table = grids.table(plan)
    assert table.failed
    assert table.entries[0].failures == {"seed 5": "too hot"}
    again = stub(by_rate)
    ran(plan, again)
    assert [cell.name for cell in again.given] == ["seed 5"] * 4
    assert not grids.table(plan).failed


def test_finished_cells_are_not_repeated(tmp_path):
    plan = planned(tmp_path, GRID + CHOOSE)
    reports = grids.fill(plan, stub(by_rate))
    done = [ended.cell.folder for report in itertools.islice(reports, 6) for ended in report.ended]
    reports.close()
    again = stub(by_rate)
    ended = ran(plan, again)
    assert not {cell.folder for cell in again.given} & set(done)
    assert [one.cell.folder for one in ended if one.earlier] == done
    assert len(ended) == 20


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("training.lr = 0.25", "training.lr = 0.5", r"training\.lr = 0\.25, the grid wants 0\.5"),
        ("method.ridge = 0.5", "", r"method\.ridge = 0\.5, the grid wants 1e-06"),
    ],
)
def test_another_configuration_is_never_mixed_in(tmp_path, before, after, key):
    ran(planned(tmp_path), stub(by_rate))
    with pytest.raises(UserError, match=rf"LoRM/seed-3 was begun with {key}; remove the folder"):
        ran(planned(tmp_path, GRID.replace(before, after)), stub(by_rate))


def test_a_folder_whose_configuration_was_changed_is_refused(tmp_path):
    plan = planned(tmp_path)
    ran(plan, stub(by_rate))
    path = plan.cells(plan.rows[0], {})[0].folder / "config.toml"
    path.write_text(path.read_text().replace("lr = 0.25", "lr = 0.75"))
    with pytest.raises(UserError, match=r"begun with training\.lr = 0\.75, the grid wants 0\.25"):
        ran(plan, stub(by_rate))


def test_a_path_means_the_same_file_as_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, GRID.replace('"digits"', '"mine.csv"', 1))
    ran(plan, stub(by_rate))
    for cell in plan.cells(plan.rows[0], {}):
        path = cell.folder / "config.toml"
        path.write_text(path.read_text().replace('"mine.csv"', f'"{tmp_path / "mine.csv"}"'))
    assert cells.state(plan.cells(plan.rows[0], {})[0]) == "finished"
    monkeypatch.chdir("/")
    with pytest.raises(UserError, match=r"data\.name = '.*/mine\.csv', the grid wants 'mine\.csv'"):
        ran(plan, stub(by_rate))


def test_other_jobs_are_named_as_the_cause(tmp_path):
    ran(planned(tmp_path), stub(by_rate))
    with pytest.raises(UserError, match=r"run\.threads = unset, the grid wants 1 \(--jobs changes it"):
        ran(planned(tmp_path, threads=1), stub(by_rate))


def test_a_run_from_elsewhere_is_refused(tmp_path):
    plan = planned(tmp_path)
    cell = plan.cells(plan.rows[0], {})[0]
    cell.folder.mkdir(parents=True)
    (cell.folder / "config.toml").write_text("")
    with pytest.raises(UserError, match=r"holds a run that no table asked for"):
        ran(plan, stub(by_rate))


def test_the_table_has_mean_and_deviation_and_is_written_in_every_form(tmp_path):
    plan = planned(tmp_path)
    ran(plan, stub(by_rate))
    paths = grids.write(grids.table(plan), plan.folder)
    assert [path.name for path in paths] == ["table.md", "table.csv", "table.tex", "table.html"]
    assert "| LoRM | **64.0 ± 1.4** | 50.0 ± 0.0" in paths[0].read_text().replace("**50.0 ± 0.0**", "50.0 ± 0.0")


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ([], [86.95, 87.59]),
        (["partition.beta=0.1"], [81.75, 80.61]),
        (["data.train_per_class=5"], []),
        (["partition.clients_per_round=3"], []),
        (["partition.kind=iid"], []),
        (["stream.tasks=5"], []),
    ],
)
def test_published_numbers_belong_to_the_settings_of_a_run(changes, values):
    """The configuration of a run folder: tasks are settled in it."""
    found = results.setting(configs.read("lorm/cifar100-b0.5", ["stream.tasks=10", *changes]))
    assert [number.value for number in (results.comparable(found) if found else ())] == values


def running(cell, seconds, rounds=0, before=0, total=None):
    return Running(cell, seconds, rounds, before, total)


def test_time_left_comes_from_running_cells_then_from_finished_ones(tmp_path):
    plan = planned(tmp_path)
    first, second = plan.cells(plan.rows[0], {})
    now = progress.begin(plan, jobs=1)
    assert (now.done, now.total, now.left) == (0, 8, None)
    now = now.after(Report([], [running(first, 10, rounds=6, before=1, total=11)]))
    assert now.left == pytest.approx(10 + 7 * 20)
    now = now.after(Report([Ended(first, 30.0)], [running(second, 10.0)]))
    assert now.left == pytest.approx(20 + 6 * 30)
    now = now.after(Report([Ended(second, 30.0, "too hot")], []))
    assert (now.done, now.failed, now.left) == (2, 1, pytest.approx(180))


def test_the_reason_is_the_message_or_the_last_line(tmp_path):
    plan = planned(tmp_path)
    cell = plan.cells(plan.rows[0], {})[0]
    cell.error.parent.mkdir(parents=True)
    for text, expected in (
        ("Traceback\n  x\nKeyError: 3\n\n", "KeyError: 3"),
        ("fedbraid: the disk is full\ncontinue with: this\n", "the disk is full"),
        ("", "it wrote nothing"),
    ):
        cell.error.write_text(text)
        assert pool.reason(cell) == expected


def test_a_folder_is_for_one_table_at_a_time(tmp_path):
    with pool.locked(tmp_path), pytest.raises(UserError, match="a table is at work in"), pool.locked(tmp_path):
        pass


def small_example(folder, **training):
    """The example of the documents at the least size: one method, and a learning rate at which nothing can run."""
    values = tomllib.loads(EXAMPLE.read_text())
    values["seeds"] = [0]
    values["common"] = SMALL | {"training": {"rounds": 1, "epochs": 1} | training}
    values["methods"] = {"LoRM": {"method": "lorm"}}
    values["choose"]["grid"] = {"training": {"lr": [3e-3, 1e30]}}
    return written(folder, tomli_w.dumps(values))


def begun(*arguments):
    """The command as a person starts it: Ctrl-C counts, also where the tests themselves run in the background."""
    command = [sys.executable, "-m", "fedbraid", "table", *map(str, arguments)]
    heeded = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heeded)


def called(*arguments):
    result = CliRunner().invoke(app, ["table", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_the_example_is_a_grid(tmp_path):
    plan = grids.plan(grids.read(EXAMPLE), tmp_path)
    assert len(plan.rows) == 4
    assert {state for state, _ in grids.listing(plan)} == {"new", "not chosen yet"}


def test_a_table_is_stopped_continued_and_finished(tmp_path):
    """From the command line with real runs: a stop in the middle, then to the end, then nothing is left to do."""
    path, out = small_example(tmp_path), tmp_path / "out"
    process = begun(path, "--out", out)
    first = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Continue with the same command" in told
    assert (first["cell"], first["error"]) == ("training.lr=0.003", None)
    assert "Not finished yet" in (out / "table.md").read_text()

    lines = [json.loads(line) for line in called(path, "--out", out)]
    assert [line["cell"] for line in lines[:2]] == ["training.lr=1e+30", "seed 0"]
    assert "head/0: a possible value" in lines[0]["error"]
    assert {(line["method"], line["n"], line["failed"]) for line in lines[2:]} == {("LoRM", 1, 0)}
    told = (out / "table.md").read_text()
    assert "LoRM with training.lr = 0.003 (at the edge of the grid)" in told
    [failed] = [line for line in told.splitlines() if "the point training.lr=1e+30 failed: " in line]
    assert "LoRM on Digits" in failed
    assert "head/0: a possible value" in failed

    before = (out / "table.csv").read_bytes()
    states = [line.split("\t")[0] for line in called(path, "--out", out, "--dry-run")]
    assert states == ["state", "finished", "failed", "finished"]
    assert (out / "table.csv").read_bytes() == before


def test_runs_of_a_table_that_is_killed_stop_by_themselves(tmp_path):
    path, out = small_example(tmp_path, rounds=100), tmp_path / "out"
    process = begun(path, "--out", out)
    log = out / "choose" / "Digits" / "LoRM" / "training.lr=0.003" / "events.jsonl"
    _until(log.is_file)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    _until(lambda: _free(out))


def _free(folder):
    try:
        with pool.locked(folder):
            return True
    except UserError:
        return False


def _until(true, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_cells_of_one_label_differ_by_folder():
    assert cells.slug("a b") == "a-b"
    assert cells.slug("...") == "-"
