"""Recipes: the published values, inheritance, and what the command line says of them."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from fedbraid import config
from fedbraid.cli import app
from fedbraid.config.reading import RECIPES
from fedbraid.errors import UserError

SMALL = ["backbone.name=tiny", "training.rounds=1", "training.epochs=1", "partition.clients=12"]

# Data set, tasks, rounds, Gram passes, head's off-diagonals, augmentation; by beta: lr, lr_A, lr_B, rank.
LORM = {
    "cifar100": (
        (10, 5, 1, 0.5, "resized_crop_flip"),
        {"0.5": (3e-3, None, None, 1), "0.1": (3e-4, None, None, 16), "0.05": (5e-4, None, None, 16)},
    ),
    "imagenet_r": (
        (10, 5, 2, 0.5, "resized_crop_flip"),
        {"0.5": (3e-3, None, None, 2), "0.1": (1e-3, None, None, 32), "0.05": (1e-3, None, None, 16)},
    ),
    "eurosat": (
        (5, 5, 2, 0.5, "none"),
        {"1.0": (3e-3, None, None, 1), "0.5": (1e-3, None, None, 1), "0.2": (3e-3, None, None, 1)},
    ),
    "cub200": (
        (10, 5, 2, 0.3, "crop_flip"),
        {"1.0": (1e-2, 3e-3, None, 1), "0.5": (3e-2, 1e-3, None, 1), "0.2": (3e-2, 3e-3, None, 1)},
    ),
    "cars196": (
        (10, 10, 2, 0.5, "flip"),
        {"1.0": (1e-2, 1e-2, 1e-3, 8), "0.5": (1e-2, 1e-2, 1e-3, 8), "0.2": (1e-2, 1e-2, 1e-3, 4)},
    ),
    "imagenet_a": (
        (10, 10, 2, 0.5, "resized_crop_flip"),
        {"1.0": (1e-2, 1e-2, 1e-3, 4), "0.5": (1e-2, 1e-2, 1e-3, 4), "0.2": (1e-2, 1e-2, 1e-3, 4)},
    ),
}
COMMANDS = [(data, *of_data, beta, *row) for data, (of_data, betas) in LORM.items() for beta, row in betas.items()]

# Data set, tasks; the rest is the public code's default.
UNSTATED = {"tiny_imagenet": 10, "clinc150": 10, "clinc150-5tasks": 5, "clinc150-3tasks": 3}

# Data set: learning rates of prototypes and of factors, and the three alphas.
PILORA = {"cifar100": (2e-3, 1e-5, (6, 4, 2)), "tiny_imagenet": (5e-3, 5e-6, (12, 8, 4))}

# FedEx-LoRA's tasks of GLUE.
GLUE = ("cola", "rte", "mrpc", "sst2", "qnli", "stsb")


# FedEx-LoRA's language models; their values are checked where they are run, in test_language_runs.py.
WRITING = ("gpt2-e2e", "mistral-7b-metamath", "gemma2-9b-metamath", "llama3.2-3b-commonsense")


def lorm_names():
    return {f"lorm/{data}-b{beta}" for data, (_, betas) in LORM.items() for beta in betas}


def unstated_names():
    return {f"lorm/{data}-b{beta}" for data in UNSTATED for beta in ("1.0", "0.5", "0.2")}


def pilora_names():
    ends = {data: [*(f"alpha{a}" for a in row[2]), "b0.5", "b0.1", "b0.05"] for data, row in PILORA.items()}
    return {f"pilora/{data}-{end}" for data in ends for end in ends[data]}


def glue_names():
    return {f"fedex/roberta-{size}-{task}" for size in ("base", "large") for task in GLUE}


def writing_names():
    return {f"fedex/{name}" for name in WRITING}


def talora_names():
    cifar = ("alpha6", "alpha6-no_residual", "alpha4", "alpha2", "b0.5", "b0.1", "b0.05")
    return {f"talora/cifar100-{end}" for end in cifar} | {f"talora/tiny_imagenet-{end}4" for end in ("first", "last")}


def test_there_is_a_recipe_for_every_published_setting_and_no_other():
    fedex = glue_names() | writing_names()
    assert set(config.recipes()) == lorm_names() | unstated_names() | pilora_names() | fedex | talora_names()


@pytest.mark.parametrize("name", sorted(talora_names()))
def test_talora_has_the_values_of_its_experiments(name):
    found = config.read(name)
    data, end = re.fullmatch(r"talora/(cifar100|tiny_imagenet)-(.+)", name).groups()
    assert (found.method["name"], found.method["residual"]) == ("fed_talora", end != "alpha6-no_residual")
    assert (found.data.name, found.stream.tasks, found.partition.clients) == (data, 10, 10)
    assert (found.training.epochs, found.training.optimizer) == (5, "sgd")
    assert found.backbone.name == "timm:vit_base_patch16_224.dino"
    assert found.adapter.blocks == ("8-11" if end == "last4" else "0-3")
    if end.startswith("b"):
        assert (found.partition.kind, found.partition.beta) == ("dirichlet", float(end[1:]))
    else:
        alpha = 12 if data == "tiny_imagenet" else int(end[5])
        assert (found.partition.kind, found.partition.alpha) == ("quantity", alpha)


def test_talora_transmits_about_what_the_paper_reports():
    """The factors of qkv, fc1 and fc2 of four blocks of a ViT-B, and a head of ten classes: 0.36 M in the paper."""
    found = config.read("talora/cifar100-alpha6")
    assert found.adapter.layers == ["qkv", "fc1", "fc2"]
    wide = {"qkv": 768 + 3 * 768, "fc1": 768 + 4 * 768, "fc2": 4 * 768 + 768}
    assert 4 * found.adapter.rank * sum(wide.values()) + 10 * 769 == 351_754


@pytest.mark.parametrize(
    ("data", "tasks", "rounds", "passes", "share", "augment", "beta", "lr", "lr_a", "lr_b", "rank"), COMMANDS
)
def test_lorm_has_the_values_of_its_commands(data, tasks, rounds, passes, share, augment, beta, lr, lr_a, lr_b, rank):
    found = config.read(f"lorm/{data}-b{beta}")
    assert (found.data.name, found.data.augment, found.stream.tasks) == (data, augment, tasks)
    assert (found.training.lr, found.training.lr_A, found.training.lr_B) == (lr, lr_a, lr_b)
    assert (found.training.rounds, found.adapter.rank) == (rounds, rank)
    assert (found.method["gram_passes"], found.method["head_off_diagonal"]) == (passes, share)
    assert (found.partition.kind, found.partition.beta) == ("dirichlet", float(beta))


@pytest.mark.parametrize("name", sorted(lorm_names() | unstated_names()))
def test_lorm_has_what_its_commands_share(name):
    found = config.read(name)
    assert (found.partition.clients, found.partition.clients_per_round, found.partition.min_samples) == (10, None, 6)
    assert (found.training.epochs, found.training.batch_size) == (5, 16)
    assert (found.training.optimizer, found.training.weight_decay) == ("adamw", 0)
    method = {key: found.method[key] for key in ("name", "gram", "gram_model", "gram_data", "head_bias")}
    assert list(method.values()) == ["lorm", "diagonal", "averaged", "augmented", "averaged"]
    assert (found.adapter.kind, found.adapter.alpha, found.adapter.layers, found.adapter.blocks) == (
        "lora",
        None,
        "all",
        "",
    )
    text = "clinc150" in name
    assert found.backbone.name == ("google-t5/t5-small" if text else "timm:vit_base_patch16_224.augreg_in21k")


@pytest.mark.parametrize("name", sorted(unstated_names()))
def test_what_is_not_stated_is_the_public_codes_default_and_is_said(name):
    found = config.read(name)
    data, beta = re.fullmatch(r"lorm/(.+)-b([\d.]+)", name).groups()
    assert (found.data.name, found.stream.tasks) == (data.split("-")[0], UNSTATED[data])
    assert found.partition.beta == float(beta)
    assert (found.training.lr, found.training.lr_A, found.training.lr_B) == (3e-4, None, None)
    assert (found.adapter.rank, found.method["gram_passes"]) == (16, 1)
    assert "not stated" in config.recipe_title(name)


@pytest.mark.parametrize("name", sorted(pilora_names()))
def test_pilora_has_the_values_of_its_scripts(name):
    found = config.read(name)
    data, kind, value = re.fullmatch(r"pilora/(\w+)-(alpha|b)([\d.]+)", name).groups()
    head, factors, _ = PILORA[data]
    assert (found.method["name"], found.data.name, found.stream.tasks) == ("pilora", data, 10)
    assert (found.partition.clients, found.partition.clients_per_round) == (30, 10)
    skew = found.partition.alpha if kind == "alpha" else found.partition.beta
    assert (found.partition.kind, skew) == ("quantity" if kind == "alpha" else "dirichlet", float(value))
    assert (found.training.rounds, found.training.epochs, found.training.batch_size) == (30, 10, 64)
    assert (found.training.lr, found.training.lr_A, found.training.lr_B) == (head, factors, factors)
    assert (found.training.optimizer, found.training.weight_decay, found.adapter.rank) == ("adam", 1e-5, 4)
    assert found.backbone.name == "timm:vit_base_patch16_224.dino"


@pytest.mark.parametrize("name", sorted(glue_names()))
def test_fedex_has_its_setting_on_glue(name):
    found = config.read(name)
    size, task = re.fullmatch(r"fedex/roberta-(\w+)-(\w+)", name).groups()
    assert (found.method["name"], found.data.name, found.data.scores) == ("fedex_lora", task, None)
    assert (found.backbone.name, found.backbone.max_length) == (f"FacebookAI/roberta-{size}", 128)
    assert (found.partition.kind, found.partition.clients, found.stream.tasks) == ("iid", 3, 1)
    assert (found.adapter.rank, found.adapter.alpha, found.adapter.layers) == (4, 8, ["query", "value"])
    assert (found.training.rounds, found.training.epochs, found.training.batch_size) == (50, 3, 128)
    assert (found.training.optimizer, found.training.lr) == ("adamw", 1e-3)


@pytest.mark.parametrize("name", config.recipes())
def test_a_recipe_can_be_made_small(name):
    small = config.read(name, SMALL)
    assert (small.backbone.name, small.training.rounds, small.training.epochs) == ("tiny", 1, 1)
    assert small.method == config.read(name).method


def test_values_lie_over_those_of_the_base(tmp_path):
    (tmp_path / "below.toml").write_text('base = "lorm/cub200-b1.0"\n[adapter]\nrank = 2\n')
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "own.toml").write_text('base = "../below.toml"\n[method]\nridge = 0.5\n[run]\nseed = 3\n')
    found = config.read(str(tmp_path / "in" / "own.toml"), ["training.lr=0.5"])
    assert (found.data.name, found.adapter.rank, found.run.seed) == ("cub200", 2, 3)
    assert (found.method["ridge"], found.method["head_off_diagonal"]) == (0.5, 0.3)
    assert (found.training.lr, found.training.lr_A) == (0.5, 3e-3)


@pytest.mark.parametrize("text", ['method = "fedavg"', '[method]\nname = "fedavg"'])
def test_another_method_has_no_options_of_the_one_below(tmp_path, text):
    (tmp_path / "own.toml").write_text(f'base = "lorm/cifar100-b0.5"\n{text}\n')
    found = config.read(str(tmp_path / "own.toml"))
    assert found.method == {"name": "fedavg"}
    assert found.partition.clients == 10


def test_a_method_named_in_words_takes_options_above(tmp_path):
    (tmp_path / "below.toml").write_text('method = "pilora"\n')
    (tmp_path / "own.toml").write_text('base = "below.toml"\n[method]\nstart = "random"\n')
    method = config.read(str(tmp_path / "own.toml")).method
    assert (method["name"], method["start"]) == ("pilora", "random")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base = "lorm/cifar10-b0.5"', r"a\.toml: base = 'lorm/cifar10-b0\.5': .*did you mean 'lorm/cifar100-b0\.5'"),
        ('base = "nowhere.toml"', r"a\.toml: base = 'nowhere\.toml': there is no configuration file"),
        ("base = 3", r"a\.toml: base = 3: must be a file or the name of a recipe"),
        ('base = "a.toml"', r"base leads back to where it comes from: \S+a\.toml -> \S+a\.toml"),
        ('base = "b.toml"', r"base leads back to where it comes from: \S+a\.toml -> \S+b\.toml -> \S+a\.toml"),
    ],
)
def test_errors_of_a_base_name_the_file(tmp_path, text, message):
    (tmp_path / "a.toml").write_text(text)
    (tmp_path / "b.toml").write_text('base = "a.toml"')
    with pytest.raises(UserError, match=message):
        config.read(str(tmp_path / "a.toml"))


def test_recipes_are_listed_with_their_titles():
    listed = json.loads(CliRunner().invoke(app, ["recipes", "--json"], catch_exceptions=False).stdout)
    assert [row["name"] for row in listed] == config.recipes()
    assert {"name": "lorm/cifar100-b0.5", "title": "LoRM on CIFAR-100, beta 0.5"} in listed
    assert "pilora/cifar100-alpha6\tPILoRA on CIFAR-100" in CliRunner().invoke(app, ["recipes"]).stdout


def test_the_first_line_of_every_recipe_is_its_title():
    titles = [config.recipe_title(name) for name in config.recipes()]
    assert len(set(titles)) == len(titles)
    root = RECIPES
    assert all((root / f"{name}.toml").read_text().startswith("# ") for name in config.recipes())
