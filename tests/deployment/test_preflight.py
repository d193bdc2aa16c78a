"""What sites and clients would refuse is said before the first round, with the way out, and not in the fifth."""

import json
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="the extra 'flower' is not installed")
pytest.importorskip("cryptography", reason="the extra 'secure' is not installed")

from digit_runs import finished, small
from small_federations import federation, grid_of
from typer.testing import CliRunner

from fedbraid import config, runs
from fedbraid.cli import app
from fedbraid.core import Round, Task
from fedbraid.deployment import handshake
from fedbraid.deployment.answering import Answering
from fedbraid.deployment.serving import serve
from fedbraid.deployment.site import read_site
from fedbraid.errors import RunError, UserError
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.exchange import spell

pytestmark = pytest.mark.usefixtures("identity")
REFUSE = "privacy.small_grams=refuse"


def served(made) -> None:
    serve(grid_of(made), made, lambda _text: None)


def test_a_run_of_sites_with_few_samples_is_not_begun_and_the_table_says_why(data: Path, tmp_path: Path) -> None:
    made = federation(tmp_path / "fed", data, REFUSE)
    with pytest.raises(UserError) as refused:
        served(made)
    told = str(refused.value)
    assert "north: task 1, train: a gram needs 97 samples" in told
    assert "south: task 2, consolidate: a diagonal gram needs 20 samples" in told
    assert 'method.head_merge = "averaged"' in told
    assert not made.run.exists(), "nothing was computed, so nothing is left"
    outcome = json.loads((made.folder / "outcome.json").read_text())
    assert outcome["outcome"] == "refused"
    shown = CliRunner().invoke(app, ["deploy", "check", str(made.folder), "--json"])
    rows = json.loads(shown.stdout)["rows"]
    assert ["north", "task 1, train: a gram needs 97 samples"] in rows


@pytest.mark.parametrize("way_out", ["masked", "allow", "averaged"])
def test_each_way_out_works(way_out: str, data: Path, tmp_path: Path) -> None:
    """The third is for sites with more samples than a factor's rank, fewer than the head's width."""
    if way_out == "masked":
        sites = {name: str(data / own) for name, own in (("a", "north"), ("b", "north"), ("c", "south"))}
        made = federation(tmp_path / "fed", data, REFUSE, "secure.masked=true", sites=sites)
    elif way_out == "allow":
        made = federation(tmp_path / "fed", data)
    else:
        options = ("method.head_merge=averaged", "method.gram=low_rank", "adapter.kind=lora", "adapter.rank=4")
        made = federation(tmp_path / "fed", data, REFUSE, *options)
        with pytest.raises(UserError) as refused:
            served(made)
        assert "needs 97 samples" not in str(refused.value), "the head's Gram is not sent"
        return
    served(made)
    assert runs.read_results(made.run)["finished"]


def test_sums_by_class_of_a_rare_class_are_in_the_table(data: Path, tmp_path: Path) -> None:
    made = federation(tmp_path / "fed", data, "method.name=fedproto", "privacy.least_samples=7")
    with pytest.raises(UserError, match=r"north: task 1, train: a sum by class needs 7 samples"):
        served(made)


@pytest.mark.parametrize("task", [Task(0, (1, 2)), Task(0, (0, 4)), Task(1, (0, 1, 4)), Task(0, (-1, 2))], ids=str)
def test_a_question_is_of_a_task_that_the_run_has(task: Task, data: Path, tmp_path: Path) -> None:
    made = federation(tmp_path / "fed", data)
    site = Answering(read_site(made.site("north")))
    site.greet(handshake.write(config.read(str(made.config), ["run.runtime=deployed"]), run="r", tested=False))
    question = Codec().encode({}, {"to": "x", "round": spell(Round(task, "train", 0, 0))})
    with pytest.raises(RunError, match="a question of a task that this run does not have"):
        site.answer(question)


def test_what_a_site_does_not_allow_is_in_the_table(data: Path, tmp_path: Path) -> None:
    made = federation(tmp_path / "fed", data)
    path = made.site("south") / "site.toml"
    path.write_text(path.read_text().replace('"lorm"', '"fedit"'))
    with pytest.raises(UserError, match=r"south: its site\.toml does not allow what the run asks for"):
        served(made)


def test_the_least_samples_of_a_site_are_asked_for(data: Path, tmp_path: Path) -> None:
    made = federation(tmp_path / "fed", data, "privacy.least_samples=13")
    with pytest.raises(UserError, match=r"north: task 1, train: a message needs 13 samples"):
        served(made)


def test_in_one_process_it_is_said_before_a_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0: task 1, train: a gram needs 97 samples"):
        runs.start(small(REFUSE), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"a message needs 30 samples"):
        runs.start(small("privacy.least_samples=30"), tmp_path / "run")
    with pytest.raises(UserError, match=r"calibrate: a class gram needs 96 samples"):
        runs.start(small(REFUSE, "method.name=ccvr"), tmp_path / "run")


def test_lorm_with_an_averaged_head_sends_no_gram_of_it(tmp_path: Path) -> None:
    run = runs.start(small("method.head_merge=averaged"), tmp_path / "run")
    assert finished(run)["finished"]
    text = (run.folder / "privacy.json").read_text()
    assert '"head/0"' in text
    assert "triangle/head" not in text


def test_a_site_says_what_a_server_may_ask_of_it(data: Path, tmp_path: Path) -> None:
    made = federation(tmp_path / "fed", data)
    shown = CliRunner().invoke(app, ["deploy", "check", str(made.site("north"))], terminal_width=200)
    assert shown.exit_code == 0, shown.output
    for word in ("lorm", "tiny", "on 1 samples or more", "sentences, values, names, paths"):
        assert word in shown.output
