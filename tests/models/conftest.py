"""Tiny models of every family with random weights, saved as a user would have them on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fedbraid.models.torchvision import make_torchvision_importable
from fedbraid.testing import save_tokenizer

make_torchvision_importable()

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def build(family: str) -> torch.nn.Module:
    """A model of the family with random weights."""
    import transformers as t

    torch.manual_seed(0)
    image = {"image_size": 16, "patch_size": 8, "num_channels": 3}
    text = {"vocab_size": 30, "max_position_embeddings": 40, **SMALL}
    t5 = {"vocab_size": 30, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    llama = {**text, "num_key_value_heads": 2}
    return {
        "vit": lambda: t.ViTModel(t.ViTConfig(**image, **SMALL)),
        "deit": lambda: t.DeiTModel(t.DeiTConfig(**image, **SMALL)),
        "dinov2": lambda: t.Dinov2Model(
            t.Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, **image)
        ),
        "swin": lambda: t.SwinModel(
            t.SwinConfig(image_size=16, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4),
            add_pooling_layer=False,
        ),
        "bert": lambda: t.BertModel(t.BertConfig(**text)),
        "roberta": lambda: t.RobertaModel(t.RobertaConfig(**text)),
        "t5": lambda: t.T5Model(t.T5Config(decoder_start_token_id=0, **t5)),
        "llama": lambda: t.LlamaModel(t.LlamaConfig(**llama)),
    }[family]()


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's model, with a tokenizer where it reads text."""
    root = tmp_path_factory.mktemp("models")

    def folder(family: str) -> Path:
        path = root / family
        if not path.exists():
            build(family).save_pretrained(path)
            if family in ("bert", "roberta", "t5", "llama"):
                save_tokenizer(path)
        return path

    return folder


@pytest.fixture(scope="session")
def built() -> Callable[[str], torch.nn.Module]:
    return build


@pytest.fixture(scope="session")
def timm_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A safetensors file with random weights of a timm model, classifier included."""
    import timm
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("timm")

    def file(name: str) -> Path:
        path = root / f"{name}.safetensors"
        if not path.exists():
            torch.manual_seed(0)
            save_file(timm.create_model(name, pretrained=False, num_classes=5).state_dict(), path)
        return path

    return file
