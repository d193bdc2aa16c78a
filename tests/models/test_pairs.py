"""Pairs of texts: which half a token is from is told to models that were taught by it, and to no others."""

from __future__ import annotations

import pytest
import torch

from fedbraid.errors import UserError
from fedbraid.models import load_backbone
from fedbraid.testing.worlds import random_bert, save_tokenizer

PAIRS = [("the cat sat", "a dog ran"), ("big tree", "the small red mat and home")]


def saved_t5(folder):
    from transformers import T5Config, T5Model

    shape = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    T5Model(T5Config(vocab_size=64, decoder_start_token_id=0, **shape)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def saved_roberta(folder):
    from transformers import RobertaConfig, RobertaModel

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    RobertaModel(RobertaConfig(vocab_size=64, type_vocab_size=1, **shape)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def test_bert_is_told_the_segments(tmp_path):
    backbone = load_backbone(str(random_bert(tmp_path)))
    rows = backbone.input.tokenize(PAIRS)
    assert set(rows) == {"input_ids", "attention_mask", "token_type_ids"}
    assert rows["token_type_ids"].sum(1).tolist() == [3, 6]
    with torch.no_grad():
        told = backbone.pool(backbone.module, rows)
        alone = backbone.pool(backbone.module, backbone.input.tokenize(PAIRS[:1]))
        blind = backbone.pool(backbone.module, {k: v for k, v in rows.items() if k != "token_type_ids"})
    assert torch.allclose(told[:1], alone, atol=1e-5)
    assert not torch.allclose(told, blind, atol=1e-3)


def test_single_texts_are_read_as_before(tmp_path):
    rows = load_backbone(str(random_bert(tmp_path))).input.tokenize(["the cat sat"])
    assert set(rows) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("saved", [saved_t5, saved_roberta])
def test_other_models_get_none(tmp_path, saved):
    backbone = load_backbone(str(saved(tmp_path)))
    rows = backbone.input.tokenize(PAIRS)
    assert set(rows) == {"input_ids", "attention_mask"}
    with torch.no_grad():
        assert backbone.pool(backbone.module, rows).shape == (2, 16)


def test_a_pair_is_cut_to_the_length(tmp_path):
    rows = load_backbone(str(random_bert(tmp_path)), max_length=5).input.tokenize(PAIRS)
    assert rows["input_ids"].shape == (2, 5)
    assert rows["token_type_ids"].any(1).all()


def test_pairs_and_texts_are_not_mixed(tmp_path):
    with pytest.raises(UserError, match="1 of 2 texts are pairs"):
        load_backbone(str(random_bert(tmp_path))).input.tokenize(["the cat", PAIRS[0]])
