"""What a terminal and a pipe get."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from fedbraid.watch import screen
from fedbraid.watch.status import Watch

HOSTILE = "[red]<script>\x1b[2Jx"


def _text(folder, width: int = 120, height: int = 40) -> str:
    out = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    out.print(screen.view(Watch(folder.path).look(folder.now), "http://127.0.0.1:1/", width, height))
    return out.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture
def busy(folder):
    names = [f"clinic {number}" for number in range(30)]
    folder.summarise(names, rounds=20)
    for number in range(4):
        folder.finish(names[1:], 0.5 + number / 10, failed={names[0]: "lost"})
    folder.ask(names, task=1, index=2, deadline=60.0)
    folder.wait(5)
    for name in names[:20]:
        folder.say("received", client=name, bytes=1234)
    folder.say("refused", client=names[25], reason="refused client clinic 25: fc1: not finite")
    folder.say("privacy", epsilon=3.0, delta=1e-5)
    return folder


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60)])
def test_the_picture_fits_the_terminal(busy, width: int, height: int) -> None:
    lines = _text(busy, width, height).splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for word in ("lorm on digits", "running", "http://127.0.0.1:1/", "4 of 20 rounds", "task 2, train round 3"):
        assert word in text
    assert "20 of 30 answered" in text
    if height < 60:  # not all have room: trouble comes first
        assert text.index("clinic 25") < text.index("clinic 20")
    assert "accuracy 80.0 (best 80.0)" in text
    assert "epsilon 3" in text


def test_names_are_shown_as_they_are(folder) -> None:
    folder.ask([HOSTILE])
    folder.say("failed", client=HOSTILE, reason=HOSTILE)
    text = _text(folder)
    assert r"[red]<script>\x1b[2Jx" in text
    assert "\x1b[2J" not in text


def test_every_state_can_be_shown(folder) -> None:
    assert "not begun" in _text(folder)
    folder.ask(["1", "2"])
    folder.say("paused", answered=1, needed=2)
    text = _text(folder)
    assert "1 of 2 clients answered" in text
    assert "next: fedbraid resume" in text
    folder.ask(["1", "2"])
    folder.wait(9999)
    assert "if it has ended: fedbraid resume" in _text(folder)
    (folder.path / "results.json").write_text(json.dumps({"finished": True}))
    assert "fedbraid report" in _text(folder)


def test_a_pipe_gets_a_line_whenever_something_has_changed(folder, monkeypatch) -> None:
    folder.summarise(["1", "2"], rounds=1)
    steps = iter(
        [
            lambda: folder.ask(["1", "2"]),
            lambda: None,
            lambda: folder.say("received", client="1", bytes=1),
            lambda: folder.say("failed", client="2", reason="lost"),
            lambda: folder.merge(["1"]),
            lambda: folder.finish(["1"], 0.5),
            lambda: (folder.path / "results.json").write_text(json.dumps({"finished": True})),
        ]
    )
    monkeypatch.setattr(screen.time, "sleep", lambda _: next(steps)())
    out = Console(file=io.StringIO(), width=60)
    watch = Watch(folder.path)
    screen.follow(lambda: watch.look(folder.now), out)
    said = [line.partition(" ")[2] for line in out.file.getvalue().splitlines()]  # pyright: ignore
    asked = "task 1, train round 1"
    assert said == [
        "not begun: 0 of 1 rounds; no round has begun",
        f"running: 0 of 1 rounds; {asked}: 0 of 2 answered, 2 awaited",
        f"running: 0 of 1 rounds; {asked}: 1 of 2 answered, 1 failed",
        f"running: 0 of 1 rounds; {asked}: 1 of 2 answered, 1 failed",
        f"running: 1 of 1 rounds; {asked}: 1 of 2 answered, 1 failed; accuracy 50.0",
        f"finished: 1 of 1 rounds; {asked}: 1 of 2 answered, 1 failed; accuracy 50.0",
    ]
