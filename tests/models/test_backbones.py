"""Backbones from disk: features of every family, and an error that names the fault for everything else."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fedbraid.core import ImageInput, TextInput
from fedbraid.errors import UserError
from fedbraid.models import load_backbone

Saved = Callable[[str], Path]
IMAGES, TEXTS = ("vit", "deit", "dinov2"), ("bert", "roberta")
SENTENCES = ["the cat sat", "a big red dog ran under the small tree and then home", "fast"]


def pixels(size: int, count: int = 3) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))}


@pytest.mark.parametrize("family", IMAGES)
@pytest.mark.parametrize("pooling", ["auto", "cls", "mean"])
def test_features_of_images(family: str, pooling: str, saved: Saved, built: Callable[[str], nn.Module]) -> None:
    backbone = load_backbone(str(saved(family)), pooling=pooling)
    assert isinstance(backbone.input, ImageInput)
    assert (backbone.input.size, backbone.input.channels, backbone.width) == (16, 3, 32)
    assert not backbone.module.training
    with torch.no_grad():
        features = backbone.pool(backbone.module, pixels(16))
        hidden = built(family).eval()(**pixels(16)).last_hidden_state
    expected = hidden.mean(1) if pooling == "mean" else hidden[:, 0]
    assert features.shape == (3, 32)
    assert torch.allclose(features, expected, atol=1e-6)


def test_a_vision_model_without_class_token_gives_the_mean(saved: Saved, built: Callable[[str], nn.Module]) -> None:
    backbone = load_backbone(str(saved("swin")))
    with torch.no_grad():
        features = backbone.pool(backbone.module, pixels(16))
        hidden = built("swin").eval()(**pixels(16)).last_hidden_state
    assert torch.allclose(features, hidden.mean(1), atol=1e-6)


@pytest.mark.parametrize("family", TEXTS)
@pytest.mark.parametrize("pooling", ["auto", "cls", "mean"])
def test_features_of_texts_do_not_depend_on_padding(family: str, pooling: str, saved: Saved) -> None:
    backbone = load_backbone(str(saved(family)), pooling=pooling)
    assert isinstance(backbone.input, TextInput)
    rows = backbone.input.tokenize(SENTENCES)
    assert set(rows) == {"input_ids", "attention_mask"}
    with torch.no_grad():
        together = backbone.pool(backbone.module, rows)
        alone = torch.cat([backbone.pool(backbone.module, backbone.input.tokenize([s])) for s in SENTENCES])
    assert together.shape == (3, 32)
    assert torch.allclose(together, alone, atol=1e-5)


def test_mean_pooling_is_the_mean_over_real_tokens(saved: Saved) -> None:
    backbone = load_backbone(str(saved("bert")), pooling="mean")
    rows = backbone.input.tokenize(SENTENCES)
    with torch.no_grad():
        hidden = backbone.module(**rows).last_hidden_state
        features = backbone.pool(backbone.module, rows)
    for row, mask, feature in zip(hidden, rows["attention_mask"], features, strict=True):
        assert torch.allclose(row[: int(mask.sum())].mean(0), feature, atol=1e-6)


def test_an_encoder_decoder_is_read_through_its_first_decoder_token(saved: Saved) -> None:
    backbone = load_backbone(str(saved("t5")))
    rows = backbone.input.tokenize(SENTENCES)
    with torch.no_grad():
        features = backbone.pool(backbone.module, rows)
        start = torch.zeros(3, 1, dtype=torch.int64)
        expected = backbone.module(**rows, decoder_input_ids=start).last_hidden_state[:, 0]
        alone = torch.cat([backbone.pool(backbone.module, backbone.input.tokenize([s])) for s in SENTENCES])
    assert features.shape == (3, backbone.width) == (3, 32)
    assert torch.equal(features, expected)
    assert torch.allclose(features, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "pooling"), [("t5", "cls"), ("t5", "mean"), ("bert", "decoder"), ("vit", "decoder")]
)
def test_pooling_that_does_not_fit_the_model(family: str, pooling: str, saved: Saved) -> None:
    with pytest.raises(UserError, match=f"backbone.pooling = '{pooling}' does not fit"):
        load_backbone(str(saved(family)), pooling=pooling)


def test_unknown_pooling() -> None:
    with pytest.raises(UserError, match=r"backbone\.pooling = 'max' for 'tiny' is none of auto, cls, mean, decoder"):
        load_backbone("tiny", pooling="max")


def test_a_left_to_right_model_is_averaged_since_its_first_token_sees_nothing(saved: Saved) -> None:
    backbone = load_backbone(str(saved("llama")))
    with torch.no_grad():
        features = backbone.pool(backbone.module, backbone.input.tokenize(SENTENCES))
    assert (features[0] - features[1]).abs().max() > 1e-2


def test_a_tokenizer_without_padding_token_pads_with_its_end(tmp_path: Path, saved: Saved) -> None:
    folder = shutil.copytree(saved("llama"), tmp_path / "m")
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings.pop("pad_token")
    settings["eos_token"] = "[SEP]"
    file.write_text(json.dumps(settings))
    special = folder / "special_tokens_map.json"
    special.unlink(missing_ok=True)
    rows = load_backbone(str(folder)).input.tokenize(SENTENCES)
    assert rows["attention_mask"].sum(1).tolist() == [5, 14, 3]


def test_long_texts_are_cut(saved: Saved) -> None:
    rows = load_backbone(str(saved("bert")), max_length=6).input.tokenize(SENTENCES)
    assert rows["input_ids"].shape == (3, 6)


def test_a_sentence_encoder_says_how_it_pools(tmp_path: Path, saved: Saved) -> None:
    folder = shutil.copytree(saved("bert"), tmp_path / "m")
    (folder / "1_Pooling").mkdir()
    rows = load_backbone(str(folder)).input.tokenize(SENTENCES)
    for mean in (True, False):
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": mean}))
        own, named = load_backbone(str(folder)), load_backbone(str(folder), pooling="mean" if mean else "cls")
        with torch.no_grad():
            assert torch.equal(own.pool(own.module, rows), named.pool(named.module, rows))


def test_size_and_normalisation_come_from_the_preprocessor(tmp_path: Path, saved: Saved) -> None:
    folder = shutil.copytree(saved("vit"), tmp_path / "m")
    settings = {"size": {"height": 16, "width": 16}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    assert load_backbone(str(folder)).input == ImageInput(16, 3, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    crop = {**settings, "size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(crop))
    assert load_backbone(str(folder)).input.size == 16


def test_the_tiny_backbone() -> None:
    backbone = load_backbone("tiny")
    assert backbone.input == ImageInput(16, 1, (0.5,), (0.5,))
    with torch.no_grad():
        assert backbone.pool(backbone.module, {"pixel_values": torch.zeros(2, 1, 16, 16)}).shape == (2, 96)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_timm_weights_from_a_file(name: str, timm_file: Callable[[str], Path]) -> None:
    import timm
    from safetensors.torch import load_file

    backbone = load_backbone(f"timm:{name}@{timm_file(name)}")
    assert (backbone.input.size, backbone.width) == (224, 192)
    model = timm.create_model(name, pretrained=False, num_classes=5).eval()
    model.load_state_dict(load_file(timm_file(name)))
    with torch.no_grad():
        features = backbone.pool(backbone.module, pixels(224, 2))
        expected = model.forward_head(model.forward_features(pixels(224, 2)["pixel_values"]), pre_logits=True)
        assert torch.equal(features, expected)
        assert torch.allclose(model.head(features), model(pixels(224, 2)["pixel_values"]), atol=1e-5)


def test_timm_for_images_of_another_size(timm_file: Callable[[str], Path]) -> None:
    import timm
    from safetensors.torch import load_file

    name = "deit_tiny_patch16_224"
    backbone = load_backbone(f"timm:{name}:112@{timm_file(name)}")
    assert (backbone.input.size, backbone.width) == (112, 192)
    model = timm.create_model(name, pretrained=False, num_classes=5).eval()
    model.load_state_dict(load_file(timm_file(name)))
    model.set_input_size(img_size=(112, 112))
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(pixels(112, 2)["pixel_values"]), pre_logits=True)
        assert torch.equal(backbone.pool(backbone.module, pixels(112, 2)), expected)


# --- errors -------------------------------------------------------------------------------------------------------


def changed(tmp_path: Path, source: Path, **config: object) -> Path:
    """A copy of a model folder with other values in its config.json."""
    folder = shutil.copytree(source, tmp_path / "changed")
    held = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**held, **config}))
    return folder


def refuses(name: str | Path, pattern: str) -> None:
    begin = time.perf_counter()
    with pytest.raises(UserError, match=pattern):
        load_backbone(str(name))
    assert time.perf_counter() - begin < 10  # no waiting for a network or for an answer at the keyboard


def test_a_folder_without_configuration(tmp_path: Path) -> None:
    refuses(tmp_path, "is no model folder .it has no config.json")
    refuses(tmp_path / "missing", "is no model folder")
    refuses(tmp_path / "config.json", "is no model folder")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_type": "nosuch"}', "\x00\xff"])
def test_a_damaged_configuration(text: str, tmp_path: Path, saved: Saved) -> None:
    folder = shutil.copytree(saved("vit"), tmp_path / "m")
    (folder / "config.json").write_text(text, encoding="latin-1")
    refuses(folder, "cannot be loaded")


@pytest.mark.parametrize("how", ["truncated", "garbage", "empty", "missing"])
def test_damaged_weights(how: str, tmp_path: Path, saved: Saved) -> None:
    folder = shutil.copytree(saved("vit"), tmp_path / "m")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[:-100], "garbage": b"no weights " * 50, "empty": b"", "missing": b""}[how])
    if how == "missing":
        file.unlink()
    refuses(folder, "cannot be loaded")


def test_weights_of_another_shape(tmp_path: Path, saved: Saved) -> None:
    refuses(
        changed(tmp_path, saved("vit"), intermediate_size=48), r"do not fit.*of another shape.*'layers\.0\.mlp\.fc1"
    )


def test_weights_that_are_missing(tmp_path: Path, saved: Saved) -> None:
    refuses(changed(tmp_path, saved("vit"), num_hidden_layers=3), r"do not fit.*16 missing.*'layers\.2\.")


@pytest.mark.parametrize("family", ["bert", "roberta", "t5"])
def test_a_missing_tokenizer(family: str, tmp_path: Path, saved: Saved) -> None:
    folder = shutil.copytree(saved(family), tmp_path / "m")
    for file in folder.glob("*token*"):
        file.unlink()
    refuses(folder, "has no usable tokenizer")


def test_code_in_a_model_folder_is_not_run(tmp_path: Path, saved: Saved) -> None:
    folder = changed(tmp_path, saved("vit"), model_type="own", auto_map={"AutoConfig": "c.C", "AutoModel": "c.M"})
    mark = tmp_path / "executed"
    (folder / "c.py").write_text(f"open({str(mark)!r}, 'w')\n")
    refuses(folder, "cannot be loaded")
    assert not mark.exists()


def test_a_model_that_gives_no_tokens(tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetModel

    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])).save_pretrained(tmp_path)
    refuses(tmp_path, "type 'resnet' is not supported")


def test_a_hub_id_without_network() -> None:
    refuses("nobody/no-such-model", "cannot be loaded.*'tiny', a hub id")
    refuses("tinny", "cannot be loaded.*'tiny'")


def test_timm_names_and_files(tmp_path: Path, timm_file: Callable[[str], Path]) -> None:
    refuses("timm:vit_tinny_patch16_224", "timm has no model 'vit_tinny_patch16_224'; near names: vit_tiny_patch16_224")
    refuses("timm:", "timm has no model ''")
    refuses("timm:vit_tiny_patch16_224", "cannot be downloaded.*'timm:vit_tiny_patch16_224@FILE'")
    refuses(f"timm:vit_tiny_patch16_224@{tmp_path}/none.safetensors", "is missing")
    refuses("timm:deit_tiny_patch16_224:big", "'big' is no image size")
    refuses("timm:deit_tiny_patch16_224:0", "'0' is no image size")
    refuses(f"timm:deit_tiny_patch16_224:100@{tmp_path}/none.safetensors", "100 pixels are no multiple .*patches' 16")
    refuses(f"timm:resnet18:112@{tmp_path}/none.safetensors", "resnet18 cannot be made for images of another size")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(timm_file("vit_tiny_patch16_224").read_bytes()[:1000])
    refuses(f"timm:vit_tiny_patch16_224@{broken}", "is damaged or no safetensors file")


def test_timm_weights_that_do_not_fit(tmp_path: Path, timm_file: Callable[[str], Path]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(timm_file("vit_tiny_patch16_224"))
    variants = {
        "1 missing, 0 unknown, 0 of another shape, for example 'cls_token'": ("cls_token", None),
        "0 missing, 1 unknown, 0 of another shape, for example 'extra'": ("extra", torch.zeros(1)),
        "0 missing, 0 unknown, 1 of another shape, for example 'pos_embed'": ("pos_embed", torch.zeros(1, 5, 192)),
    }
    for detail, (key, value) in variants.items():
        held = {**tensors, key: value} if value is not None else {k: v for k, v in tensors.items() if k != key}
        save_file(held, tmp_path / "w.safetensors")
        refuses(f"timm:vit_tiny_patch16_224@{tmp_path}/w.safetensors", f"do not fit.*{detail}")
