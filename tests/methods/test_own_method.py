"""A method from outside the package, as `docs/add-a-method.md` tells it."""

import re
import sys
from pathlib import Path

import pytest

from fedbraid import config, plugins, runs
from fedbraid.errors import UserError

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "add-a-method.md").read_text()
REFERENCE = f"{ROOT}/examples/my_method.py:PowerMean"
SMALL = {
    "data": {"name": "digits", "train_per_class": 12, "test_per_class": 4},
    "stream": {"tasks": 2},
    "training": {"rounds": 1, "epochs": 1},
}


def test_the_page_shows_the_example_file() -> None:
    assert (ROOT / "examples" / "my_method.py").read_text().rstrip() in PAGE


def test_the_checks_of_the_page_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    code = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "check_method" in block)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path])
    exec(compile(code, "add-a-method.md", "exec"), {})


def test_it_runs_resumes_and_keeps_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    settings = config.parse({**SMALL, "method": {"name": "examples/my_method.py:PowerMean", "power": 0.25}})
    run = runs.start(settings, tmp_path / "run")
    next(iter(run.events()))
    monkeypatch.chdir(tmp_path)  # its file is found from anywhere
    assert [event.number for event in runs.resume(tmp_path / "run").events()] == [1, 2, 3]
    assert runs.read_config(tmp_path / "run").method == {"name": REFERENCE, "power": 0.25}
    assert runs.read_results(tmp_path / "run")["method"] == "power_mean"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nowhere.py:Method", "there is no file nowhere.py"),
        (f"{ROOT}/examples/my_method.py:Nothing", "has no 'Nothing'"),
        (f"{ROOT}/examples/my_method.py:Power", "is no method: it must name a dataclass"),
        ("fedbraid.nowhere:Method", "there is no module 'fedbraid.nowhere'"),
    ],
)
def test_references_that_lead_nowhere(name: str, error: str) -> None:
    with pytest.raises(UserError, match=re.escape(error)):
        config.parse({"method": name})


def test_a_file_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(UserError, match=r"broken\.py cannot be loaded: ZeroDivisionError"):
        plugins.load_object(f"{tmp_path}/broken.py:Method")
