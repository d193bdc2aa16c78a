"""The command line as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from fedbraid.cli import app

SETTINGS = ("data.classes=4", "data.train_per_class=10", "data.test_per_class=5", "partition.min_samples=1")
SMALL = ["--tasks", "2", "--clients", "2", "--rounds", "1", "--epochs", "1"]
SMALL += [word for setting in SETTINGS for word in ("--set", setting)]


def _call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    lines = _call("run", *SMALL, "--out", folder).splitlines()
    return folder, [json.loads(line) for line in lines]


def test_a_pipe_gets_one_record_a_round_and_the_results(finished):
    _, lines = finished
    assert [line["phase"] for line in lines[:-1]] == ["start", "train", "consolidate"] * 2
    assert lines[-1]["finished"]


def test_methods_and_datasets_are_listed():
    methods = json.loads(_call("methods", "--json"))
    assert {row["name"] for row in methods} >= {"joint", "fedavg", "fedit", "lorm"}
    assert all(row["citation"] and row["travels"] for row in methods)
    datasets = json.loads(_call("datasets", "--json"))
    assert {"name": "digits", "classes": 10, "tasks": 5}.items() <= next(d for d in datasets).items()
    assert "lorm" in _call("methods")


def test_compare_gives_mean_and_deviation_over_seeds(finished, tmp_path):
    folder, _ = finished
    _call("run", *SMALL, "--seed", 1, "--out", tmp_path / "second")
    rows = json.loads(_call("compare", folder, tmp_path / "second", "--json"))
    assert len(rows) == 1
    assert rows[0]["runs"] == 2
    assert "±" in _call("compare", folder, tmp_path / "second")


def test_predict_names_a_class_for_each_image(finished, tmp_path):
    folder, _ = finished
    Image.new("L", (8, 8), 200).save(tmp_path / "a.png")
    rows = json.loads(_call("predict", folder, tmp_path / "a.png", "--json"))
    assert rows[0]["label"] in {"0", "1", "2", "3"}
    assert 0 < rows[0]["probability"] <= 1


@pytest.mark.parametrize("format", ["peft", "merged"])
def test_an_export_computes_what_the_run_predicts(finished, tmp_path, format):
    """The exported files, loaded by their own libraries, give the features of the run's own model."""
    import torch
    from transformers import ViTModel

    from fedbraid.export import trained
    from fedbraid.models.backbones import TINY

    folder, _ = finished
    out = tmp_path / format
    _call("export", folder, "--format", format, "--out", out)
    found = trained(folder)
    found.model.load(found.weights)
    found.model.train(False)
    pixels = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    if format == "merged":
        model = ViTModel.from_pretrained(out, add_pooling_layer=False)
    else:
        from peft import PeftModel

        model = PeftModel.from_pretrained(ViTModel.from_pretrained(TINY, add_pooling_layer=False), out)
    with torch.no_grad():
        expected = found.model.features({"pixel_values": pixels})
        features = model(pixel_values=pixels).last_hidden_state[:, 0]
        head = load_file(out / "head.safetensors")
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(features @ head["weight"].T + head["bias"], found.model.logits(expected))
    assert json.loads((out / "classes.json").read_text()) == ["0", "1", "2", "3"]


def test_a_head_on_random_features_is_exported_with_them(tmp_path):
    """Logits follow from the plain backbone's features and the files alone."""
    import torch

    from fedbraid import config, runs
    from fedbraid.export import trained
    from fedbraid.models import load_backbone

    values = {"data": {"train_per_class": 40, "test_per_class": 2}, "method": {"name": "ranpac_fed", "features": 30}}
    for _ in runs.start(config.parse(values), tmp_path / "run").events():
        pass
    _call("export", tmp_path / "run", "--format", "merged", "--out", tmp_path / "out")
    found = trained(tmp_path / "run")
    found.model.load(found.weights)
    pixels = {"pixel_values": torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))}
    head = load_file(tmp_path / "out" / "head.safetensors")
    backbone = load_backbone("tiny")
    with torch.no_grad():
        features = (backbone.pool(backbone.module, pixels) @ head["projection"]).relu()
        expected = found.model.logits(found.model.features(pixels))
    torch.testing.assert_close(features @ head["weight"].T + head["bias"], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--method", "lrom"], "did you mean 'lorm'"),
        (["run", "nowhere.toml"], "no configuration file"),
        (["resume", "nowhere"], "holds no run"),
        (["report", "nowhere"], "holds no run"),
        (["predict", "nowhere", "a.png"], "holds no run"),
        (["run", "--data", "digitz"], "digits"),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(arguments, message):
    code = "import sys; from fedbraid.cli import main; sys.argv[0] = 'fedbraid'; main()"
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_help_imports_nothing_heavy():
    code = "import sys; from fedbraid.cli import app; from typer.testing import CliRunner; "
    code += "CliRunner().invoke(app, ['--help']); print('torch' in sys.modules, 'transformers' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
