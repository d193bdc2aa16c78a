"""Nothing in the package can run what it reads: no pickle in any form, no code from text."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fedbraid

SOURCES = sorted(Path(fedbraid.__file__).parent.rglob("*.py"))
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
FUNCTIONS = {"eval", "exec", "compile", "__import__"}
UNSAFE = {"yaml.load", "yaml.unsafe_load", "pandas.read_pickle", "pd.read_pickle", "tarfile.extractall", "os.system"}


def found(source: str) -> list[str]:
    """What in this source could run what it reads, with the line."""
    told: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            told += [f"{node.lineno}: import {a.name}" for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            told.append(f"{node.lineno}: from {node.module}")
        elif isinstance(node, ast.Call):
            told += [f"{node.lineno}: {what}" for what in called(node)]
    return told


def called(call: ast.Call) -> list[str]:
    name = ast.unparse(call.func)
    given = {word.arg: word.value for word in call.keywords}
    told = [name] if name in FUNCTIONS | UNSAFE or name.endswith((".extractall", ".read_pickle")) else []
    if name in ("torch.load", "torch.hub.load") and not is_true(given.get("weights_only")):
        told.append(f"{name} without weights_only=True")
    if "allow_pickle" in given and not is_false(given["allow_pickle"]):
        told.append(f"{name} with allow_pickle")
    if "trust_remote_code" in given and not is_false(given["trust_remote_code"]):
        told.append(f"{name} with trust_remote_code")
    if name.endswith(".from_pretrained") and not given.keys() & {"trust_remote_code", None}:
        told.append(f"{name} without trust_remote_code=False")
    return told


def is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def test_nothing_in_the_package_runs_what_it_reads() -> None:
    told = {str(path): found(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert len(told) > 200
    assert {path: lines for path, lines in told.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load('x')",
        "torch.load('x', weights_only=False)",
        "np.load('x', allow_pickle=True)",
        "np.load('x', allow_pickle=given)",
        "eval('1')",
        "exec(text)",
        "AutoModel.from_pretrained('x')",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "archive.extractall('x')",
    ],
)
def test_what_is_looked_for_is_found(source: str) -> None:
    assert len(found(source)) == 1


def test_what_is_safe_is_not_found() -> None:
    safe = ["torch.load('x', weights_only=True)", "np.load('x')", "re.compile('x')", "loader.exec_module(module)"]
    assert found("\n".join([*safe, "model.eval()"])) == []
