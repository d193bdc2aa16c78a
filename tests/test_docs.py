"""What the documents say is so: the README's example runs, every method has its page, recipes name real settings."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_args

import pytest

from fedbraid import config, quantities
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
    about = METHODS[name].about
    assert about.name == name
    assert about.citation
    assert about.citation.split(",")[0].split(" et al.")[0].split(" and ")[0] in _page(name) or about.centralised


@pytest.mark.parametrize("name", METHODS)
def test_every_option_is_documented(name):
    options = {field.name for field in dataclasses.fields(METHODS[name])}
    assert options <= set(re.findall(r"^\| `(\w+)` \|", _page(name), re.MULTILINE))


def _page(name):
    """The page that has the method's title as a heading or as the first words of a paragraph."""
    title = re.escape(METHODS[name].about.title)
    named = rf"^(# (.* )?{title}([\s,]|$)|\*\*{title}\.)"
    pages = [path.read_text() for path in (ROOT / "docs" / "methods").glob("*.md")]
    found = [page for page in pages if re.search(named, page, re.MULTILINE)]
    assert len(found) == 1, f"{len(found)} pages on {name}"
    return found[0]


def test_the_page_of_what_travels_tells_every_quantity():
    page = (ROOT / "docs" / "what-travels.md").read_text()
    rows = re.findall(r"^\| (\w+) \|", page, re.MULTILINE)
    assert rows == ["quantity", *get_args(quantities.Role), "name"]


def test_links_between_documents_lead_somewhere():
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize("name", config.recipes())
def test_recipes_are_valid(name):
    assert config.read(name).method["name"] in METHODS
