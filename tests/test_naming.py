"""Names of any script: {names} x {places where one becomes a path, or is shown on a terminal}."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from digit_runs import EQUAL, finished
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sklearn.datasets import load_digits
from small_federations import write

from fedbraid import config, grids, runs
from fedbraid.core import Event
from fedbraid.data import Partition, load_partition, partition_text
from fedbraid.data.partition import check_clients
from fedbraid.engine import run
from fedbraid.errors import UserError
from fedbraid.grids.cells import slug
from fedbraid.local.training import Training
from fedbraid.methods import METHODS, Setting, make
from fedbraid.models import Adapter
from fedbraid.naming import SHORT, file_name, printable, printable_lines, shortened
from fedbraid.reports import console as screen
from fedbraid.reports.screen_words import words
from fedbraid.reports.table_screen import Board, Job, board, cell_line
from fedbraid.runtimes.client import Work
from fedbraid.runtimes.codec import Codec
from fedbraid.runtimes.exchange import Answer
from fedbraid.runtimes.inprocess import InProcess
from fedbraid.runtimes.journal import Journal
from fedbraid.runtimes.server import Server
from fedbraid.terminal import fail, print_table
from fedbraid.testing.sites import Sites
from fedbraid.testing.worlds import image_world

CHINESE = "\u5317" * 200
GOOD = {
    "200 Chinese letters": CHINESE,
    "27 Chinese letters": "\u4eac" * 27,
    "200 letters": "x" * 200,
    "a slash": "ward 3/../b",
    "emoji": "\U0001f3e5" * 200,
    "Persian, with a joiner": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "letters that turn the line around": "a\u202eb",
    "markup": "[red]:smile:[/]",
    "dots": "...",
    "an option": "-x",
    "a hidden file": ".x",
}
BAD = {
    "empty": "",
    "a dot": ".",
    "two dots": "..",
    "an escape": "a\x1b[2J",
    "a line": "a\nb",
    "NUL": "a\x00",
    "C1": "a\x9b2J",
    "a line separator": "a\u2028b",
    "half a letter": "a\ud800",
    "201 letters": "x" * 201,
}
HOSTILE = "[red]:smile: \x1b[2J\x9b\x07\r\u202e\ud800"
SHOWN = r"[red]:smile: \x1b[2J\x9b\x07\r\u202e\ud800"


@given(st.text(st.characters(), max_size=210))
def test_a_file_has_a_short_plain_name(name: str) -> None:
    found = file_name(name)
    assert found.isascii()
    assert found.isprintable()
    assert 0 < len(found) <= SHORT
    assert not {"/", "\\", "\x00", " "} & {*found}
    assert found not in (".", "..")
    assert file_name(found) == found or "=" in found or "%" in found


@given(st.lists(st.text(st.characters(), max_size=90), unique=True, max_size=8))
def test_two_names_are_two_files(names: list[str]) -> None:
    everyone = [*names, *map(file_name, names)]
    assert len({*map(file_name, everyone)}) == len({*everyone})


def test_short_and_safe_names_are_as_they_were() -> None:
    for name in ("0", "site-1", "north.east_2~", "a" * SHORT):
        assert file_name(name) == name
    assert file_name("ward 3") == "ward%203"
    assert slug("LoRM: rank 4/8") == shortened("LoRM-rank-4-8") == "LoRM-rank-4-8"


@pytest.mark.parametrize("name", GOOD.values(), ids=GOOD)
def test_a_good_name_is_taken_everywhere(name: str, tmp_path: Path) -> None:
    partition = Partition("natural", "f", 2, {name: (0, 1)})
    (tmp_path / "partition.json").write_text(partition_text(partition))
    assert load_partition(tmp_path / "partition.json", "f") == partition
    check_clients([name], "partition.sites")
    journal = Journal(tmp_path / "journal")
    journal.begin("question")
    journal.add(Answer(name, b"answer"))
    assert Journal(tmp_path / "journal").begin("question") == [Answer(name, b"answer")]
    for path in (slug(name), f"20261129-000000-lorm-{shortened(Path(name).stem)}", file_name(name)):
        (tmp_path / f"{path}.error.txt").write_text("")


@pytest.mark.parametrize("name", BAD.values(), ids=BAD)
def test_a_bad_name_is_refused_when_the_partition_is_made(name: str, tmp_path: Path) -> None:
    (tmp_path / "partition.json").write_text(partition_text(Partition("natural", "f", 2, {name: (0, 1)})))
    with pytest.raises(UserError) as told:
        load_partition(tmp_path / "partition.json", "f")
    assert "partition.json: the client '" in str(told.value)
    assert "; rename this client, in letters and signs that can be seen" in str(told.value)
    assert str(told.value).isprintable()
    str(told.value).encode()
    with pytest.raises(UserError, match=r"^partition\.sites: the client '"):
        check_clients([name], "partition.sites")


def _table(folder: Path, clients: tuple[str, ...]) -> Path:
    images, labels = load_digits(return_X_y=True)
    rows = [row for label in range(4) for row in np.flatnonzero(labels == label)[:12].tolist()]
    owned = [(row, clients[number % len(clients)]) for number, row in enumerate(rows)]
    write(folder / "train.csv", images, labels, owned, client=True)
    return folder


@pytest.mark.parametrize("method", ["pilora", "fedex_lora", "derpp"])
def test_a_run_with_names_of_200_letters_and_its_continuation(method: str, tmp_path: Path) -> None:
    data = _table(tmp_path / "data", (CHINESE, f"{CHINESE[:-1]}2", GOOD["a slash"]))
    settings = [f"data.name={data}", "stream.tasks=2", f"method={method}", "training.rounds=1", "training.epochs=1"]
    whole = finished(runs.start(config.read("", settings), tmp_path / "whole"))
    events = runs.start(config.read("", settings), tmp_path / "run").events()
    for _ in range(2):
        next(events)
    events.close()
    found = finished(runs.resume(tmp_path / "run"))
    assert {key: found[key] for key in EQUAL} == {key: whole[key] for key in EQUAL}
    assert set(found["partition"]["samples"]) == {CHINESE, f"{CHINESE[:-1]}2", GOOD["a slash"]}


@pytest.mark.parametrize("method", ["pilora", "fedex_lora", "derpp"])
def test_a_run_over_sites_with_such_names(method: str, tmp_path: Path) -> None:
    options, world = METHODS[method](), image_world()
    called = dict(zip(world.clients, (CHINESE, f"{CHINESE[:-1]}2", "ward 3/b"), strict=True))
    clients = {called[name]: replace(party, id=called[name]) for name, party in world.clients.items()}
    adapted = options.adapter(Adapter("lora", rank=2, blocks="0-1"))
    made = make(options, Setting(adapted, Training(epochs=1, batch_size=16, lr=1e-3, augment=False), 1))
    work = Work(made, world.model(adapted), Codec())

    def events(transport: InProcess) -> list[Event]:
        return list(run(made, work.model, world.tasks[:1], Server(work, transport), seed=0))

    here = events(InProcess(work, clients, world.evaluators))
    there = events(Sites(work, clients, world.evaluators, tmp_path))
    assert [event.outcome.bytes_up for event in here] == [event.outcome.bytes_up for event in there]
    assert {path.name for path in tmp_path.iterdir()} <= set(map(file_name, clients))


def test_a_table_whose_labels_are_names_of_200_letters(tmp_path: Path) -> None:
    text = f'title = "{CHINESE}"\n[data."{CHINESE}"]\ndata.name = "digits"\n'
    text += f'[methods."{CHINESE}"]\nmethod.name = "lorm"\n[methods."{CHINESE[:-1]}2"]\nmethod.name = "fedavg"\n'
    (tmp_path / "grid.toml").write_text(text)
    plan = grids.plan(grids.read(tmp_path / "grid.toml"), tmp_path / "out")
    folders = {cell.folder for row in plan.rows for cell in plan.cells(row, {})}
    assert len(folders) == 2 * 3
    for folder in folders:
        folder.mkdir(parents=True)


def _shown(what: Any) -> str:
    out = Console(file=io.StringIO(), width=400, force_terminal=True, color_system=None, emoji=False)
    out.print(what, highlight=False)
    return out.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


FACTS = {"method": HOSTILE, "data": HOSTILE, "backbone": HOSTILE, "tasks": 1, "clients": 1, "seed": 0}
FACTS |= {"partition": {"kind": "natural"}, "notes": [HOSTILE]}
EVENT = {"event": 0, "task": 0, "phase": "train", "round": 0, "reported": [HOSTILE], "loss": None, "seconds": 0.0}
EVENT |= {"test_seconds": 0.0, "bytes_up": {HOSTILE: 1}, "bytes_down": {}, "refused": {HOSTILE: HOSTILE}}
EVENT |= {"failed": {HOSTILE: HOSTILE}, "correct": None, "total": None, "scores": {}}
SIGN = {"kind": "aggregation_noise", "value": 0.5, "task": 0, "seen": HOSTILE, "advice": HOSTILE}
PLACES = {
    "words": lambda: _shown(words(HOSTILE)),
    "the line of a round": lambda: _shown(screen.round_line(EVENT, 1)),
    "a cell that failed": lambda: _shown(cell_line(HOSTILE, HOSTILE, {})),
    "a cell that is done": lambda: _shown(cell_line(HOSTILE, None, {"score": 0.5, "seconds": 1.0})),
    "the board of a table": lambda: _shown(board(Board(0, 1, 0, 1.0, None, [Job(HOSTILE, "", 0, None, 1.0)]))),
    "an error": lambda: _printed(lambda: fail(f"{HOSTILE}\nsecond", 2)),
    "a table": lambda: _printed(lambda: print_table([HOSTILE], [[HOSTILE]])),
    "the headline": lambda: _headline(),
}


def _headline() -> str:
    out = Console(file=io.StringIO(), width=400, force_terminal=True, color_system=None, emoji=False)
    screen.headline(out, FACTS, Path(HOSTILE))
    screen.heard(out, "privacy", {"first": True, "said": HOSTILE})
    return out.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def _printed(say: Any) -> str:
    import contextlib

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.suppress(SystemExit):
        say()
    return out.getvalue()


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_what_is_shown_neither_steers_the_terminal_nor_is_markup(place: Any) -> None:
    text = place()
    assert SHOWN in text
    assert text.replace("\n", "").isprintable()
    text.encode()


def test_a_bar_shows_the_name_as_it_is() -> None:
    out = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    from fedbraid.progress import track

    with screen.bars(out):
        for _ in track([1], f"unpacking {HOSTILE}"):
            out.print("between")
    assert SHOWN in out.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_names_from_a_file_or_a_command_line_that_are_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.name = .*\\udcff holds bytes that are no text in UTF-8"):
        config.read("", [f"data.name={tmp_path}/a\udcff"])
    with pytest.raises(UserError, match=r"stream\.order"):
        config.read({"stream": {"order": ["a\udcff", "b"]}})


@pytest.mark.parametrize("client", ["a\x1b[2J", "x" * 300])
def test_the_command_line_refuses_a_bad_id_in_one_line_and_makes_no_folder(client: str, tmp_path: Path) -> None:
    data = _table(tmp_path / "data", (client, "b"))
    command = [sys.executable, "-m", "fedbraid", "run", "--data", str(data), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fedbraid: ")
    assert "the client column: the client '" in done.stderr
    assert done.stderr.strip().isprintable()
    assert not (tmp_path / "run").exists()


def test_a_terminal_without_the_script_gets_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fedbraid", "report", str(tmp_path / "\u5317")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("fedbraid: ")
    assert done.stderr.count("\n") == 1


def test_lines_stay_lines() -> None:
    assert printable_lines("a\n\tb\x1b") == "a\n\tb\\x1b"
    assert printable("a" * 300, 200) == "a" * 199 + "\u2026"
    assert json.loads(json.dumps(printable(HOSTILE))) == SHOWN
