"""What cannot be merged is refused in words that say what, where, and what to do; nothing is written."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedbraid.cli import main
from fedbraid.errors import UserError
from fedbraid.merging import Options, Request, Sources, merge_folders


def changed(folder: Path, to: Path, **config: object) -> Path:
    """A copy of an adapter with another configuration."""
    shutil.copytree(folder, to)
    file = to / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return to


def with_tensors(folder: Path, to: Path, change) -> Path:
    """A copy of an adapter with other tensors."""
    shutil.copytree(folder, to)
    tensors = load_file(to / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, to / "adapter_model.safetensors")
    return to


def refused(adapters: list[Path], message: str, out: Path, rule: str = "average", **settings) -> None:
    before = sorted(out.parent.iterdir())
    with pytest.raises(UserError, match=message) as caught:
        merge_folders(Request(adapters, rule, out, **settings))
    assert "\n" not in str(caught.value)
    assert sorted(out.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "of type 'IA3'; only LORA"),
        ({"use_dora": True}, "uses DoRA"),
        ({"lora_bias": True}, "a bias inside the low-rank term"),
        ({"target_parameters": ["experts.gate"]}, "bare parameters"),
        ({"trainable_token_indices": [1]}, "single trained tokens"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
        ({"r": 0}, "no positive integer"),
        ({"lora_alpha": None}, "no number"),
        ({"r": 7}, r"factors .* but adapter_config.json says rank 7"),
        ({"rank_pattern": {"(": 3}}, "no regular expression"),
        ({"rank_pattern": {"(?i)query": 4}}, "no regular expression"),
        ({"rank_pattern": [1]}, r"rank_pattern in its config is \[1\], not of type dict"),
        ({"lora_alpha": float("nan")}, "no number"),
        ({"lora_alpha": 10**400}, "no number"),
        ({"lora_alpha": 1e300}, "too large for fp32 under its alpha"),
        ({"use_rslora": "no"}, "use_rslora in its config is 'no', not of type bool"),
        ({"lora_dropout": "a"}, "not of type int or float"),
        ({"base_model_name_or_path": 5}, "not of type str"),
        ({"task_type": "NONSENSE"}, "that peft does not know"),
    ],
)
def test_adapters_that_are_no_plain_lora(config, message, three, tmp_path):
    refused([three[0], changed(three[1], tmp_path / "x", **config)], message, tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"base_model_name_or_path": "other/model"}, "has the base model .*has 'other/model'"),
        ({"bias": "all"}, None),
        ({"task_type": "CAUSAL_LM"}, None),
    ],
)
def test_adapters_of_different_bases(config, message, three, tmp_path):
    other = changed(three[1], tmp_path / "x", **config)
    if message:
        refused([three[0], other], message, tmp_path / "out")
    else:
        refused(
            [changed(three[0], tmp_path / "y", bias="lora_only", task_type="SEQ_CLS"), other], "only", tmp_path / "out"
        )


KEY = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight"


def _grow(tensors):
    tensors[KEY] = torch.zeros(4, 40)


def _break(tensors):
    tensors[KEY][1, 2] = float("nan")


def _halve(tensors):
    del tensors[KEY]


def _convolve(tensors):
    tensors[KEY] = tensors[KEY].reshape(4, 32, 1, 1)


def _quantise(tensors):
    tensors[KEY] = (tensors[KEY] * 100).to(torch.int8)


def _rotate(tensors):
    tensors[KEY] = tensors[KEY].to(torch.complex64)


def _shrink(tensors):
    tensors[KEY] = tensors[KEY].to(torch.float8_e4m3fn)


def _drain(tensors):
    tensors[KEY] = torch.zeros(4, 0)


def _double(tensors):
    tensors[KEY.removesuffix(".weight")] = tensors[KEY].clone()


def _magnitude(tensors):
    tensors[KEY.replace("lora_A.weight", "lora_magnitude_vector")] = torch.zeros(32)


def _head(tensors):
    tensors["base_model.model.classifier.weight"] = torch.zeros(3, 32)


def _empty(tensors):
    for key in list(tensors):
        del tensors[key]
    tensors["base_model.model.classifier.weight"] = torch.zeros(3, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_grow, r"'encoder.layer.0.attention.self.query' is \(32, 32\) in .* and \(32, 40\)"),
        (_break, "NaN or infinite"),
        (_quantise, "is stored as torch.int8; save the adapter in fp32"),
        (_rotate, "is stored as torch.complex64"),
        (_shrink, "is stored as torch.float8_e4m3fn"),
        (_drain, "which are empty"),
        (_double, "is there under two names"),
        (_halve, "only its factor lora_B"),
        (_convolve, "convolution"),
        (_magnitude, "no part of a plain LoRA"),
        (_head, "has trained 'base_model.model.classifier.weight' as a whole"),
        (_empty, "holds no LoRA factors"),
    ],
)
def test_tensors_that_do_not_fit(change, message, three, tmp_path):
    refused([three[0], with_tensors(three[1], tmp_path / "x", change)], message, tmp_path / "out")


def test_heads_of_different_classes(three, tmp_path):
    def head(rows: int):
        return lambda tensors: tensors.update({"base_model.model.classifier.weight": torch.zeros(rows, 32)})

    pair = [with_tensors(three[0], tmp_path / str(rows), head(rows)) for rows in (3, 4)]
    refused(pair, "heads of different classes", tmp_path / "out")


def test_files_that_are_missing_or_damaged(three, tmp_path):
    refused([tmp_path / "none"], "no adapter folder", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    refused([tmp_path / "empty"], "has no adapter_config.json", tmp_path / "out")
    damaged = changed(three[0], tmp_path / "damaged")
    for text, message in (("{", "cannot be read"), ("[" * 10**5, "cannot be read"), ("[]", "no JSON object")):
        (damaged / "adapter_config.json").write_text(text)
        refused([damaged], message, tmp_path / "out")
    cut = changed(three[0], tmp_path / "cut")
    whole = (cut / "adapter_model.safetensors").read_bytes()
    for part in (whole[:1000], b""):
        (cut / "adapter_model.safetensors").write_bytes(part)
        refused([cut], "damaged or no safetensors", tmp_path / "out")
    (cut / "adapter_model.safetensors").unlink()
    refused([cut], "has no adapter_model.safetensors", tmp_path / "out")


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_never_opened(three, tmp_path):
    folder = changed(three[0], tmp_path / "old")
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    refused([folder], "pickle, adapter_model.bin.*save_pretrained writes safetensors", tmp_path / "out")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "mean"}, "no rule 'mean'; known are average, fedex"),
        ({"rank": 0}, "at least 1"),
        ({"weights": [1.0, 2.0]}, "2 weights for 3 adapters"),
        ({"weights": [1.0, -1.0, 1.0]}, "not all positive"),
        ({"format": "onnx"}, "none of adapter, merged"),
        ({"format": "merged"}, "give it as --base"),
        ({"rule": "regmean", "sources": Sources(base="tiny")}, "--base and data as --data"),
        ({"rule": "lorm", "sources": Sources(data=["digits"])}, "--base and data as --data"),
        ({"sources": Sources(data=["digits"])}, "average reads no data"),
        ({"rule": "lorm", "sources": Sources("tiny", ["digits"] * 2)}, "2 data sets for 3 adapters"),
        ({"rule": "lorm", "sources": Sources("tiny", ["digits"], samples=0)}, "at least one sample"),
        ({"rule": "lorm", "sources": Sources("tiny", ["digits"], off_diagonal=2)}, "between 0 and 1"),
        ({"rule": "lorm", "sources": Sources("tiny", ["digits"])}, "the base model has no layer"),
        ({"format": "merged", "sources": Sources("no/model")}, "--base 'no/model' cannot be loaded"),
        ({"format": "merged", "sources": Sources("tiny")}, "does not fit the adapters: it has no layer"),
    ],
)
def test_settings_that_do_not_fit(settings, message, three, tmp_path):
    refused(three, message, tmp_path / "out", **settings)


def test_paths_that_no_folder_can_have(three, tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (loop, tmp_path / ("x" * 300)):
        refused([path], "cannot be the path of a folder", tmp_path / "out")
        refused(three, "cannot be the path of a folder", path)


def test_a_whole_model_cannot_hold_a_change_of_one_of_two_tied_weights(make, bases, tmp_path):
    adapter = make(tmp_path / "wte", "gpt2", target_modules=["wte"], fan_in_fan_out=False)
    base = Sources(base=str(bases / "gpt2"))
    refused([adapter], "are one weight in the base model", tmp_path / "out", format="merged", sources=base)


def test_options_out_of_range():
    for options in ({"keep": 0.0}, {"keep": 1.5}, {"ridge": -1.0}, {"ridge": float("inf")}):
        with pytest.raises(UserError, match=r"is (-?[01]|inf)"):
            Options(**options)


def test_folders_that_are_in_the_way(three, tmp_path):
    own = changed(three[0], tmp_path / "own")
    refused([own], "would overwrite the adapter", own, force=True)
    refused([own], "would overwrite the adapter", tmp_path, force=True)
    (tmp_path / "file").touch()
    refused(three, "is a file", tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    refused(three, "no result of 'fedbraid merge'", tmp_path / "full", force=True)

    merge_folders(Request(three, "fedex", tmp_path / "out"))
    refused(three, "overwrite it with --force", tmp_path / "out")
    merge_folders(Request(three, "average", tmp_path / "out", force=True))
    assert not (tmp_path / "out" / "residual").exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "certificate.json",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--weights", "a,b"], "--weights 'a,b' is no list of numbers"), (["--rule", "mean"], "there is no rule 'mean'")],
)
def test_the_command_line_shows_no_traceback(arguments, message, three, tmp_path, monkeypatch, capsys):
    words = ["fedbraid", "merge", str(three[0]), "--rule", "average", "--out", str(tmp_path / "out"), *arguments]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"fedbraid: {message}")
