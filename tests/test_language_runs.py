"""Runs on prompts with answers, end to end: recipes of large models made small, data of one's own, what comes out."""

import json
import os

import pytest
import torch
from published_prompts import commonsense, e2e, lines, metamath
from typer.testing import CliRunner

from fedbraid import config as configs
from fedbraid import language
from fedbraid.cli import app
from fedbraid.errors import UserError
from fedbraid.experiment import build
from fedbraid.models.torchvision import make_torchvision_importable
from fedbraid.testing import random_llama, save_causal
from fedbraid.testing.language import SMALL

ROOMY = {**SMALL, "max_position_embeddings": 160}
SHORT = ["training.rounds=1", "training.epochs=1", "training.batch_size=4"]
FAST = [*SHORT, "generation.max_new_tokens=3", "run.threads=1"]


def gpt2():
    import transformers as t

    marks = {name: SMALL[name] for name in ("bos_token_id", "eos_token_id")}
    return t.GPT2Config(vocab_size=SMALL["vocab_size"], n_embd=32, n_layer=2, n_head=2, n_positions=160, **marks)


def family(name, **options):
    def build_config():
        import transformers as t

        return getattr(t, name)(**ROOMY, **options)

    return build_config


GEMMA = family("Gemma2Config", head_dim=16, sliding_window=16)
# Data's writer, architecture, adapted layers, their shapes, rank, scale, rounds, epochs, batch size, smoothing, dtype.
RECIPES = {
    "gpt2-e2e": (e2e, gpt2, 6, {(96, 32), (32, 32), (32, 128)}, 4, 8.0, 6, 5, 8, 0.1, "fp32"),
    "mistral-7b-metamath": (metamath, family("MistralConfig"), 14, None, 32, 1.0, 3, 1, 8, 0.0, "bf16"),
    "gemma2-9b-metamath": (metamath, GEMMA, 14, None, 32, 1.0, 3, 1, 8, 0.0, "bf16"),
    "llama3.2-3b-commonsense": (commonsense, family("LlamaConfig"), 14, None, 32, 1.0, 3, 1, 8, 0.0, "bf16"),
}
ALL_LINEAR = {(32, 32), (48, 32), (32, 48)}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_has_the_published_settings_and_runs_on_a_small_model_of_its_family(name, tmp_path):
    write, architecture, count, shapes, rank, scale, rounds, epochs, batch, smoothing, dtype = RECIPES[name]
    published = configs.read(f"fedex/{name}")
    assert (published.partition.kind, published.partition.clients) == ("iid", 3)
    assert (published.adapter.rank, configs.adapter(published).scale) == (rank, scale)
    training = published.training
    assert (training.rounds, training.epochs, training.batch_size) == (rounds, epochs, batch)
    assert (training.label_smoothing, published.backbone.dtype) == (smoothing, dtype)
    assert published.method["name"] == "fedex_lora"

    make_torchvision_importable()
    write(tmp_path / "data")
    save_causal(architecture(), tmp_path / "model")
    small = [f"backbone.name={tmp_path / 'model'}", f"data.path={tmp_path / 'data'}", *FAST]
    experiment = build(configs.read(f"fedex/{name}", small))
    layers = experiment.model.layers
    assert len(layers) == count
    assert set(layers.values()) == (shapes or ALL_LINEAR)
    events = list(experiment.events())
    assert [event.round.phase for event in events] == ["start", "train"]
    shared = events[-1].state.shared
    assert all(torch.isfinite(value).all() and value.dtype == torch.float32 for value in shared.values())
    assert any(value.abs().max() > 0 for key, value in shared.items() if key.startswith("lora_B"))
    assert events[-1].test.total["total"].sum() == len(experiment.dataset.test)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return random_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Prompts of two categories with one or two answers."""
    file = tmp_path_factory.mktemp("own") / "own.jsonl"
    words = ("cat", "dog", "mat", "tree", "big", "red")
    rows = [{"ask": f"the {w} sat", "say": [f"a {w}", w], "area": "xy"[n % 2]} for n, w in enumerate(words * 4)]
    lines(file, rows)
    return file


def settings(own, llama, *more, method="fedit"):
    columns = ["data.prompt_column=ask", "data.answer_column=say", "data.category_column=area"]
    given = [f"data.name={own}", f"backbone.name={llama}", f"method.name={method}", *columns, *FAST]
    return configs.read("", [*given, "partition.clients=2", "partition.kind=iid", *more])


def test_a_stream_of_tasks_is_a_stream_of_categories(own, llama):
    experiment = build(settings(own, llama, "stream.tasks=2"))
    totals = [event.test.total["total"].tolist() for event in experiment.events() if event.test]
    assert totals == [[2], [2, 2]]
    assert not any(key.startswith("head") for key in experiment.model.fresh(torch.Generator()))


def test_joint_training_is_reported_by_category_all_the_same(own, llama):
    experiment = build(settings(own, llama, "stream.tasks=2", method="joint"))
    last = list(experiment.events())[-1]
    assert last.test.total["total"].tolist() == [2, 2]
    assert {"asked/x", "asked/y", "right/x", "token_loss"} <= set(last.test.total)


def test_by_itself_a_run_has_one_task_and_a_dirichlet_partition_skews_categories(own, llama):
    skew = ["partition.kind=dirichlet", "partition.beta=0.05", "partition.min_samples=1", "run.seed=1"]
    experiment = build(settings(own, llama, *skew))
    assert len(experiment.tasks) == 1
    labels = experiment.dataset.train.labels
    shares = [labels[list(held)].bincount(minlength=2).tolist() for held in experiment.partition.clients.values()]
    assert min(min(share) for share in shares) <= 1


def test_what_is_settled_is_said(own, llama):
    config = build(settings(own, llama)).config
    assert (config.backbone.max_length, config.stream.tasks, config.data.template) == (512, 1, "plain")
    assert language.template(config) == "lines"
    experiment = build(settings(own, llama, "backbone.max_length=6"))
    assert "prompts lost their beginning" not in build(settings(own, llama)).dataset.note
    assert "24 prompts lost their beginning" in experiment.dataset.note
    assert experiment.dataset.scores == ("accuracy", "loss", "perplexity")


def test_a_run_is_exported_and_answers_prompts(own, llama, tmp_path, monkeypatch):
    monkeypatch.setattr("fedbraid.cli.running._default_folder", lambda settings: tmp_path / "run")
    runner, run = CliRunner(), tmp_path / "run"
    given = configs.to_toml(settings(own, llama, "data.template=alpaca", "training.lr=0.05", "backbone.max_length=60"))
    (tmp_path / "run.toml").write_text(given)
    assert runner.invoke(app, ["run", str(tmp_path / "run.toml")], catch_exceptions=False).exit_code == 0
    results = json.loads((run / "results.json").read_text())
    assert results["scores"]["perplexity"] > 1
    answer = runner.invoke(app, ["predict", str(run), "the cat sat", "a dog", "--json"], catch_exceptions=False)
    written = json.loads(answer.stdout)
    assert [row["input"] for row in written] == ["the cat sat", "a dog"]
    plain = runner.invoke(app, ["predict", str(run), "the cat sat"], catch_exceptions=False).stdout
    assert plain == written[0]["text"] + "\n"
    for form in ("peft", "merged"):
        out = ["export", str(run), "--out", str(tmp_path / form), "--format", form]
        assert runner.invoke(app, out, catch_exceptions=False).exit_code == 0
    assert "tokenizer.json" in os.listdir(tmp_path / "merged")
    writing = [(folder / "generation_config.json").read_bytes() for folder in (llama, tmp_path / "merged")]
    assert writing[0] == writing[1]
    assert not {"head.safetensors", "classes.json"} & {*os.listdir(tmp_path / "merged"), *os.listdir(tmp_path / "peft")}
    _check_exports(tmp_path, llama)


def _check_exports(folder, base):
    """What peft makes of the adapter is what the merged folder holds, and not the model before."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[1, 5, 8, 6]])
    with torch.no_grad():
        adapted = AutoPeftModelForCausalLM.from_pretrained(folder / "peft")(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(folder / "merged")(ids).logits
        before = AutoModelForCausalLM.from_pretrained(base)(ids).logits
    assert torch.allclose(adapted, merged, atol=1e-5)
    assert (merged - before).abs().max() > 1e-3


def test_gpt2_is_exported_with_its_transposed_layers(own, tmp_path):
    make_torchvision_importable()
    from fedbraid.models import Adapter, LanguageModel, load_causal, peft_files

    save_causal(gpt2(), tmp_path / "base")
    model = LanguageModel(load_causal(str(tmp_path / "base")), Adapter(rank=2))
    draws = torch.Generator().manual_seed(0)
    values = {key: torch.randn(v.shape, generator=draws) * 0.3 for key, v in model.fresh(draws).items()}
    for form, save in (("peft", peft_files.save_adapter), ("merged", peft_files.save_merged)):
        (tmp_path / form).mkdir()
        save(values, model.adapter, model.layers, model.backbone, tmp_path / form)
    _check_exports(tmp_path, tmp_path / "base")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["backbone.name=tiny"], "no causal language model"),
        (["adapter.kind=none", "method.name=fedavg"], "tunes nothing of a language model"),
        (["method.name=lorm"], "is language data"),
        (["data.template=chat"], "has no chat template"),
        (["backbone.max_length=3"], r"its answer is 3 tokens long.*backbone\.max_length = 3"),
    ],
)
def test_what_does_not_go_together_is_refused(more, message, own, llama):
    with pytest.raises(UserError, match=message):
        build(settings(own, llama, *more))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("backbone.dtype=bf16", r"backbone\.dtype = 'bf16'"),
        ("training.label_smoothing=0.1", r"training\.label_smoothing = 0\.1"),
        ("training.gradient_checkpointing=true", r"training\.gradient_checkpointing = True"),
        ("data.template=chat", r"data\.template = 'chat'"),
        ("data.match=final", r"data\.match = 'final'"),
        ("data.prompt_column=ask", r"data\.prompt_column = 'ask'"),
        ("data.category_column=area", r"data\.category_column = 'area'"),
        ("generation.beams=3", r"generation\.beams = 3"),
    ],
)
def test_settings_of_language_models_are_refused_on_other_data(setting, words):
    with pytest.raises(UserError, match=f"{words} is for language models.*'digits' holds no prompts"):
        build(configs.read("", [setting]))


@pytest.mark.parametrize("setting", ["backbone.pooling=mean", "data.pair_column=area"])
def test_settings_that_mean_nothing_to_a_language_model_are_refused(setting, own, llama):
    with pytest.raises(UserError, match="means nothing to a language model"):
        build(settings(own, llama, setting))
