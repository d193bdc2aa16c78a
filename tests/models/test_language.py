"""The language model against the plain causal model, family by family."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from fedbraid.core import IGNORED
from fedbraid.errors import UserError
from fedbraid.models import Adapter, LanguageModel, load_backbone, load_causal
from fedbraid.models.language import next_tokens
from fedbraid.testing import random_bert, save_causal
from fedbraid.testing.language import SMALL

FAMILIES = ("gpt2", "llama", "mistral", "gemma2")
ASKED, SAID = ["the cat sat", "a big red dog ran under the tree and then home"], ["dog", "cat mat"]


def config_of(family, **changes):
    import transformers as t

    small = {**SMALL, **changes}
    if family == "gpt2":
        marks = {name: small[name] for name in ("bos_token_id", "eos_token_id")}
        return t.GPT2Config(vocab_size=small["vocab_size"], n_embd=32, n_layer=2, n_head=2, n_positions=64, **marks)
    if family == "gemma2":
        return t.Gemma2Config(**small, head_dim=16, sliding_window=16, final_logit_softcapping=0.05)
    return {"llama": t.LlamaConfig, "mistral": t.MistralConfig}[family](**small)


@pytest.fixture(scope="session")
def causal(tmp_path_factory):
    """The folder of a family's language model."""
    root = tmp_path_factory.mktemp("causal")

    def folder(family):
        return root / family if (root / family).exists() else save_causal(config_of(family), root / family)

    return folder


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def batch(backbone, asked=ASKED, said=SAID):
    """Rows padded on the right, made by hand."""
    rows = backbone.input.encode(asked, said, False)
    longest = max(len(prompt + answer) for prompt, answer in rows)
    found = {"input_ids": [], "attention_mask": [], "labels": []}
    for prompt, answer in rows:
        rest = longest - len(prompt + answer)
        found["input_ids"].append(prompt + answer + [backbone.input.padding] * rest)
        found["attention_mask"].append([1] * (longest - rest) + [0] * rest)
        found["labels"].append([IGNORED] * len(prompt) + answer + [IGNORED] * rest)
    return {name: torch.tensor(values) for name, values in found.items()}


def drawn(model, size=0.3):
    """Values of the adapter that have an effect."""
    return {key: torch.randn(v.shape, generator=seeded(3)) * size for key, v in model.fresh(seeded(0)).items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_plain_model_where_there_is_something_to_learn(family, causal):
    model = LanguageModel(load_causal(str(causal(family))), Adapter(rank=2))
    model.train(False)
    inputs = batch(model.backbone)
    plain = load_causal(str(causal(family))).module
    with torch.no_grad():
        model.load({})
        found = model.logits(model.features(inputs))
        rows = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        expected = plain(**rows).logits[:, :-1][inputs["labels"][:, 1:] != IGNORED]
    assert found.shape == (5, model.backbone.module.config.vocab_size)
    assert torch.allclose(found, expected, atol=1e-5)
    assert next_tokens(inputs).tolist() == [t for row in inputs["labels"].tolist() for t in row if t != IGNORED]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_transformers(family, causal):
    model = LanguageModel(load_causal(str(causal(family))), Adapter(rank=2))
    model.train(False)
    model.load({})
    inputs = batch(model.backbone)
    plain = load_causal(str(causal(family))).module
    with torch.no_grad():
        loss = F.cross_entropy(model.logits(model.features(inputs)), next_tokens(inputs))
        assert torch.allclose(loss, plain(**inputs).loss, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_adapter_adds_its_product_to_the_weights(family, causal):
    name = str(causal(family))
    model = LanguageModel(load_causal(name), Adapter(rank=2, alpha=4.0))
    model.train(False)
    values, inputs = drawn(model), batch(model.backbone)
    dense = load_causal(name)
    for layer, (d_out, d_in) in model.layers.items():
        update = 2 * values[f"lora_B/{layer}"] @ values[f"lora_A/{layer}"]
        assert update.shape == (d_out, d_in)
        weight = dense.module.get_submodule(layer).weight
        weight.data += update.T if family == "gpt2" else update
    other = LanguageModel(dense, Adapter(rank=2))
    other.train(False)
    with torch.no_grad():
        model.load(values)
        other.load({})
        changed = model.logits(model.features(inputs))
        assert torch.allclose(changed, other.logits(other.features(inputs)), atol=1e-4)
        model.load({})
        assert not torch.allclose(changed, model.logits(model.features(inputs)), atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_neither_embeddings_nor_the_output_layer_are_adapted(family, causal):
    model = LanguageModel(load_causal(str(causal(family))), Adapter(rank=2))
    assert len(model.layers) == (8 if family == "gpt2" else 14)
    assert not any("lm_head" in name or "emb" in name or "wte" in name for name in model.layers)


def test_a_row_alone_and_in_a_batch_is_told_the_same(causal):
    model = LanguageModel(load_causal(str(causal("llama"))), Adapter(rank=2))
    model.train(False)
    model.load(drawn(model))
    with torch.no_grad():
        together = model.logits(model.features(batch(model.backbone)))
        alone = model.logits(model.features(batch(model.backbone, ASKED[:1], SAID[:1])))
    assert torch.allclose(together[: len(alone)], alone, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_of_any_length_are_answered_as_if_each_were_alone(family, causal):
    model = LanguageModel(load_causal(str(causal(family))), Adapter(rank=2))
    model.train(False)
    model.load(drawn(model, 0.6))
    prompts = [prompt for prompt, _ in model.input.encode(ASKED, SAID, False)]
    together = model.write(prompts, max_new_tokens=6)
    assert together == [model.write([prompt], max_new_tokens=6)[0] for prompt in prompts]
    assert together == model.write(prompts, max_new_tokens=6)
    assert any(together)


def test_writing_is_the_likeliest_token_again_and_again_until_the_end(causal):
    model = LanguageModel(load_causal(str(causal("llama"))), Adapter(rank=2))
    model.train(False)
    model.load(drawn(model, 0.6))
    prompt = model.input.encode(["the cat"], [""], False)[0][0]
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(8):
            logits = model.backbone.module(input_ids=torch.tensor([tokens])).logits
            tokens.append(int(logits[0, -1].argmax()))
            if tokens[-1] in model.backbone.stops:
                break
    said = model.backbone.tokenizer.decode(tokens[len(prompt) :], skip_special_tokens=True).strip()
    assert model.write([prompt], max_new_tokens=8) == [said]
    assert len(model.write([list(range(3, 15)) * 9], max_new_tokens=8)) == 1  # longer than the model reads
    cut = [model.input.cut(list(range(1, 9)), room) for room in (1, 3, 8)]
    assert cut == [[1], [1, 7, 8], list(range(1, 9))]  # the token that opens a row stays
    with pytest.raises(UserError, match=r"max_new_tokens = 64 leaves no room.*64 tokens together"):
        model.write([prompt], max_new_tokens=64)


def test_the_authors_settings_of_sampling_do_not_hold(causal, tmp_path):
    folder = save_causal(config_of("llama"), tmp_path / "llama")
    settings = {"do_sample": True, "temperature": 5.0, "top_k": 3, "eos_token_id": [2, 7]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    backbone = load_causal(str(folder))
    assert backbone.stops == (2, 7)
    model = LanguageModel(backbone, Adapter(rank=2))
    plain = LanguageModel(load_causal(str(causal("llama"))), Adapter(rank=2))
    prompt = [[1, 5, 6, 8]]
    assert model.write(prompt, max_new_tokens=3) == plain.write(prompt, max_new_tokens=3)


def test_beams_find_a_likelier_text(causal):
    model = LanguageModel(load_causal(str(causal("llama"))), Adapter(rank=2))
    model.train(False)
    model.load(drawn(model, 0.6))
    assert len(model.write([[1, 5, 6], [1, 7]], max_new_tokens=5, beams=3)) == 2


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_under_bf16_weights_the_adapter_is_fp32_at_any_rank(family, causal):
    model = LanguageModel(load_causal(str(causal(family)), dtype="bf16"), Adapter(rank=4))
    assert model.backbone.module.get_input_embeddings().weight.dtype == torch.bfloat16
    for rank in (4, 2):
        smaller = LanguageModel(load_causal(str(causal(family))), Adapter(rank=rank))
        values = drawn(smaller)
        model.load(values)
        assert all(torch.equal(v, values[k]) for k, v in model.values(["lora_A", "lora_B"]).items())
    model.load({f"delta_{k[5:]}": v for k, v in values.items()})
    layer = model.backbone.module.get_submodule(next(iter(model.layers)))
    assert layer.lora_A["delta"].weight.dtype == torch.float32
    model.load(values)
    trained = model.parameters(["lora_A"])
    model.logits(model.features(batch(model.backbone))).square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in trained.values())


def test_bf16_products_change_little(causal):
    found = []
    for precision in ("fp32", "bf16"):
        model = LanguageModel(load_causal(str(causal("llama"))), Adapter(rank=2), precision=precision)
        model.train(False)
        model.load({})
        with torch.no_grad():
            found.append(model.logits(model.features(batch(model.backbone))))
    assert found[1].dtype == torch.float32
    assert 0 < (found[0] - found[1]).abs().max() < 0.02


def test_checkpoints_change_no_gradient(causal):
    found = []
    for checkpointing in (False, True):
        model = LanguageModel(load_causal(str(causal("llama"))), Adapter(rank=2), checkpointing=checkpointing)
        model.load(drawn(model))
        trained = model.parameters(["lora_A", "lora_B"])
        model.train()
        model.logits(model.features(batch(model.backbone))).logsumexp(1).sum().backward()
        found.append({key: p.grad for key, p in trained.items()})
    assert all(torch.allclose(found[0][key], found[1][key], atol=1e-6) for key in found[0])


def test_full_fine_tuning_holds_all_weights(causal):
    model = LanguageModel(load_causal(str(causal("llama"))), Adapter("full"))
    values = model.fresh(seeded(0))
    assert "base/model.embed_tokens.weight" in values
    model.load({key: value + 0.01 for key, value in values.items()})
    assert torch.allclose(model.values(["base"])["base/model.norm.weight"], values["base/model.norm.weight"] + 0.01)


def test_only_what_counts_is_seen_of_a_layers_inputs(causal):
    model = LanguageModel(load_causal(str(causal("llama"))), Adapter(rank=2))
    model.load({})
    layer, seen = next(iter(model.layers)), []
    inputs = batch(model.backbone)
    with torch.no_grad(), model.inputs_of([layer], lambda name, x: seen.append((name, len(x)))):
        model.features(inputs)
    assert seen == [(layer, int(inputs["attention_mask"].sum()))]


@pytest.mark.parametrize("kind", ["none", "prompt"])
def test_without_an_adapter_there_is_nothing_to_train(kind, causal):
    with pytest.raises(UserError, match=f"adapter.kind = '{kind}' tunes nothing of a language model"):
        LanguageModel(load_causal(str(causal("llama"))), Adapter(kind))


def test_weights_in_bf16_are_not_tuned_themselves(causal):
    with pytest.raises(UserError, match=r"needs backbone\.dtype = 'fp32'"):
        LanguageModel(load_causal(str(causal("llama")), dtype="bf16"), Adapter("full"))


def test_values_without_a_place_are_refused(causal):
    model = LanguageModel(load_causal(str(causal("llama"))), Adapter(rank=2))
    with pytest.raises(UserError, match="no place for 'head/0'"):
        model.load({"head/0": torch.zeros(2, 33)})


def test_four_bits_need_their_extra(causal, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if "bits" in name else find(name, *rest))
    with pytest.raises(UserError, match=r"pip install 'fedbraid\[4bit\]'"):
        load_causal(str(causal("llama")), dtype="4bit")


def test_what_writes_no_text_is_refused(tmp_path):
    with pytest.raises(UserError, match="no causal language model"):
        load_causal(str(random_bert(tmp_path)))
    with pytest.raises(UserError, match="no causal language model"):
        load_causal("tiny")
    with pytest.raises(UserError, match="is no model folder"):
        load_causal("/nowhere")


@pytest.mark.parametrize("load", [load_causal, load_backbone])
def test_a_tokenizer_without_a_token_to_pad_with_is_refused(load, tmp_path):
    folder = save_causal(config_of("llama"), tmp_path / "llama")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"neither a padding token nor an end-of-sequence token"):
        load(str(folder))


def test_a_fresh_model_and_one_of_another_rank_do_not_drop_inputs(causal):
    model = LanguageModel(load_causal(str(causal("llama"))), Adapter(rank=4, dropout=0.5))
    small = LanguageModel(load_causal(str(causal("llama"))), Adapter(rank=2))
    for values in (drawn(model), drawn(small)):
        model.load(values)
        with torch.no_grad():
            found = [model.logits(model.features(batch(model.backbone))) for _ in range(2)]
        assert torch.equal(*found)


def test_logits_made_in_a_way_that_is_not_known_are_refused(causal):
    backbone = load_causal(str(causal("llama")))
    head = backbone.module.lm_head
    head.register_forward_hook(lambda module, inputs, output: output + 1)
    with pytest.raises(UserError, match="does not make its logits from its final hidden states"):
        LanguageModel(backbone, Adapter(rank=2))


def test_a_prompt_has_the_same_tokens_with_its_answer_and_without(causal):
    backbone = load_causal(str(causal("llama")), max_length=500)
    rows = backbone.input.encode(ASKED, SAID, False)
    assert [prompt for prompt, _ in rows] == [prompt for prompt, _ in backbone.input.encode(ASKED, ["", ""], False)]
    assert all(prompt[0] == backbone.input.start == 1 for prompt, _ in rows)
    assert all(answer[-1] == 2 for _, answer in rows)
    assert backbone.input.length == 64


class Joining:
    """A tokenizer of letters that reads a pair "ab" as one token, across prompt and answer too."""

    eos_token_id, bos_token_id, chat_template = 0, None, None

    def __call__(self, texts, add_special_tokens=True):
        ids = [[9 if part == "ab" else ord(part) for part in self._parts(text)] for text in texts]
        return {"input_ids": ids}

    def _parts(self, text):
        return [part for chunk in text.split("ab") for part in (*chunk, "ab")][:-1]


def test_where_tokens_would_join_both_are_tokenized_apart():
    from fedbraid.models.causal import Encoder

    encoder = Encoder("joining", Joining(), (0,))
    assert encoder.encode(["xa"], ["by"], False) == [([120, 97], [98, 121, 0])]
    assert encoder.encode(["x"], ["ab"], False) == [([120], [9, 0])]


TURNS = "{% for m in messages %}[{{ m.role }}] {{ m.content }} <end>\n{% endfor %}"
PROMPTED = TURNS + "{% if add_generation_prompt %}[assistant] {% endif %}"


def test_the_chat_format_is_the_models_own(causal):
    backbone = load_causal(str(causal("llama")))
    backbone.tokenizer.chat_template = PROMPTED
    prompt, answer = backbone.input.encode(["the cat"], ["a dog"], True)[0]
    alone = backbone.tokenizer("[user] the cat <end>\n[assistant] ", add_special_tokens=False)["input_ids"]
    said = backbone.tokenizer("a dog <end>", add_special_tokens=False)["input_ids"]
    assert (prompt, answer) == (alone, [*said, 2])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        ("{{ messages | length }}{{ messages[0].content }}", "changes the prompt once it is answered"),
    ],
)
def test_a_chat_format_that_does_not_do_is_refused(causal, template, message):
    backbone = load_causal(str(causal("llama")))
    backbone.tokenizer.chat_template = template
    with pytest.raises(UserError, match=message):
        backbone.input.encode(["the cat"], ["a dog"], True)


@pytest.mark.assets
def test_a_real_model_goes_on_with_a_story():
    folder = Path(__file__).parents[2].parent / "shared" / "assets" / "stories260k"
    if not folder.exists():
        pytest.skip(f"needs {folder}")
    model = LanguageModel(load_causal(str(folder)), Adapter(rank=2))
    model.train(False)
    prompt = model.input.encode(["Once upon a time"], [""], False)[0][0]
    assert model.write([prompt], max_new_tokens=8) == [", there was a little girl"]
