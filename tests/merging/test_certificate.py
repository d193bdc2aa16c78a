"""What a certificate says is so: against peft's own numbers, and against files that are not what they should be."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from fedbraid.errors import RunError
from fedbraid.merging import Request, command, merge_folders, outputs, showing
from fedbraid.merging.layer import normalised

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("weights", ["1,1,1", "0.2,0.3,0.5"])
def test_pefts_linear_combination_is_as_far_off_as_it_says(weights, three, call, load, mean_of, tmp_path):
    record = json.loads(call(*three, "--rule", "factors", "--weights", weights, "--out", tmp_path / "out", "--json"))
    shares = [float(w) / sum(map(float, weights.split(","))) for w in weights.split(",")]
    model = PeftModel.from_pretrained(load("bert"), three[0], adapter_name="0")
    for number, folder in enumerate(three[1:], 1):
        model.load_adapter(folder, str(number))
    model.add_weighted_adapter(["0", "1", "2"], shares, "linear", combination_type="linear")
    expected = mean_of(three, shares)
    for layer in record["layers"]:
        mean = expected[layer["layer"]]
        linear = model.base_model.model.get_submodule(layer["layer"]).get_delta_weight("linear").double()
        assert layer["peft_linear"] == pytest.approx(((linear - mean).norm() / mean.norm()).item(), rel=1e-4)
        assert layer["from_mean"] == pytest.approx(layer["factor_mean"], rel=1e-4)
        assert layer["error"] < 1e-6


def test_where_peft_refuses_it_says_so(mixed, call, tmp_path):
    record = json.loads(call(*mixed, "--rule", "average", "--out", tmp_path / "out", "--json"))
    assert record["peft_linear"] is None
    assert {layer["tuned_by"] for layer in record["layers"]} == {1, 2, 3}
    model_ranks = {layer["layer"]: layer["rank"] for layer in record["layers"]}
    assert model_ranks["encoder.layer.0.attention.self.query"] == 2 + 3
    assert model_ranks["encoder.layer.1.attention.self.query"] == 2 + 3 + 5
    assert record == json.loads((tmp_path / "out" / "certificate.json").read_text())


@pytest.mark.parametrize("rule", ["ties", "dare", "average"])
def test_what_the_rank_cuts_is_told_apart(rule, three, call, tmp_path):
    record = json.loads(call(*three, "--rule", rule, "--rank", 3, "--out", tmp_path / "out", "--json"))
    assert record["cut"] > 0.1
    assert record["error"] == pytest.approx(record["cut"], rel=1e-4)
    assert all(layer["rank"] == 3 for layer in record["layers"])


def test_files_that_are_not_what_was_meant_are_an_error_and_leave_nothing(three, tmp_path, monkeypatch):
    stored = outputs.stored

    def damaged(*arguments, **settings):
        layer = stored(*arguments, **settings)
        layer.left[0] *= 1.01
        return layer

    monkeypatch.setattr(outputs, "stored", damaged)
    with pytest.raises(RunError, match=r"is off by 0\.00\d+ from what average is by definition; nothing was kept"):
        merge_folders(Request(three, "average", tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rule", ["average", "fedex", "factors", "ties"])
def test_updates_that_cancel_leave_nothing_to_be_relative_to(rule, three, tmp_path):
    shutil.copytree(three[0], tmp_path / "minus")
    file = tmp_path / "minus" / "adapter_model.safetensors"
    save_file({name: -t if "lora_B" in name else t for name, t in load_file(file).items()}, file)
    certificate = merge_folders(Request([three[0], tmp_path / "minus"], rule, tmp_path / "out"))
    assert certificate.error < 1e-12
    assert certificate.from_mean < 1e-12


def test_a_whole_tensor_that_is_not_the_mean_is_an_error(make, tmp_path, monkeypatch):
    adapter = make(tmp_path / "a", "classifier", modules_to_save=["classifier"])
    monkeypatch.setattr(command, "mean_of_whole", lambda adapters, _: {n: 2 * t for n, t in adapters[0].whole.items()})
    with pytest.raises(RunError, match=r"classifier.*is off by 1 from the mean; nothing was kept"):
        merge_folders(Request([adapter], "average", tmp_path / "out"))


def test_weights_are_shares_however_large_they_are():
    assert normalised([1e308, 1e308], 2).tolist() == [0.5, 0.5]


def test_a_pipe_gets_lines_of_tabs(three, call, tmp_path):
    lines = call(*three, "--rule", "average", "--out", tmp_path / "out").splitlines()
    assert lines[0].split("\t") == showing.HEADINGS
    assert {len(line.split("\t")) for line in lines} == {6}
    assert lines[-1].startswith("all\t\t")


def test_people_see_the_worst_layers(three, tmp_path):
    certificate = merge_folders(Request(three, "ties", tmp_path / "out", rank=2))
    shown = showing.rows(certificate, limit=2)
    assert certificate.worst_layer.endswith(shown[0][0].removeprefix("…"))
    assert [len(row) for row in shown] == [6] * 4
    assert all(len(row[0]) <= 25 for row in shown)
    assert shown[2][0] == f"and {len(certificate.layers) - 2} more"
    words = showing.in_words(certificate, tmp_path / "out")
    assert "ties of 3 adapters" in words
    assert "is what the bound on the rank cuts" in words


def test_sizes_are_those_of_the_files(three, tmp_path):
    certificate = merge_folders(Request(three, "fedex", tmp_path / "out"))
    files = [path for path in (tmp_path / "out").rglob("*") if path.suffix == ".safetensors"]
    assert len(files) == 2
    assert certificate.bytes == sum(path.stat().st_size for path in files)


def test_the_numbers_of_the_readme(capsys):
    readme = (ROOT / "README.md").read_text()
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "fedbraid.merge(" in b]
    torch.manual_seed(0)
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out.split()
    claimed = re.findall(r"# (\S+)$", "\n".join(line for line in block.splitlines() if "print" in line), re.MULTILINE)
    assert len(printed) == len(claimed) == 2
    for found, said in zip(printed, claimed, strict=True):
        assert float(found) == pytest.approx(float(said), rel=0.02) or float(found) < float(said) < 1e-5


def test_every_rule_and_option_is_documented():
    from fedbraid.cli import app
    from fedbraid.merging import RULES

    page = (ROOT / "docs" / "merge.md").read_text()
    assert set(RULES) <= set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    for rule in RULES.values():
        assert rule.citation.split(",")[0].split(" et al.")[0] in page
    (command,) = [c for c in app.registered_commands if c.callback and c.callback.__name__ == "merge"]
    names = set(command.callback.__annotations__) - {"return", "adapter", "as_json"}
    options = {"--" + name.replace("_", "-") for name in names} | {"--json"}
    assert options <= set(re.findall(r"`(--[\w-]+)", page))
