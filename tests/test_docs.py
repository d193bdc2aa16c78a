"""What the documents say is so: the README's example runs, every method has its page, recipes name real settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedbraid import config
from fedbraid.methods import METHODS

ROOT = Path(__file__).parent.parent


def test_the_example_of_the_readme_runs(capsys):
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    code = block.group(1).replace('"rounds": 2', '"rounds": 1, "epochs": 1')
    assert code != block.group(1)
    exec(compile(code, "README.md", "exec"), {})
    assert "task 4, consolidate round 0: " in capsys.readouterr().out


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_page_and_a_citation(name):
    pages = "\n".join(path.read_text() for path in (ROOT / "docs" / "methods").glob("*.md"))
    about = METHODS[name].about
    assert about.name == name
    assert about.citation
    assert re.search(rf"^(# |\*\*).*{re.escape(about.title)}", pages, re.MULTILINE)


def test_every_option_of_lorm_is_documented():
    page = (ROOT / "docs" / "methods" / "lorm.md").read_text()
    options = set(config.read("").method) - {"name"}
    assert options == set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))


def test_links_between_documents_lead_somewhere():
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize("name", config.recipes())
def test_recipes_are_valid(name):
    assert config.read(name).method["name"] in METHODS
