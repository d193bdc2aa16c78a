"""fed-mammoth's command lines: what they become, and what is refused."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from fedbraid import config
from fedbraid.cli import app
from fedbraid.data import DATASETS
from fedbraid.errors import UserError
from fedbraid.mammoth import translate
from fedbraid.mammoth.models import MODELS
from fedbraid.mammoth.tables import DATA, NETWORKS
from fedbraid.methods import METHODS, Setting, make

BARE = "--model={} --dataset={} --network={} --batch_size=16"
SHARED = "--num_epochs=5 --num_clients=10 --wd_reg=0 --lora_head=False --regmean_all=True --gram_dtype=32 "
SHARED += "--reg_dtype_64=True --alpha_regmean_backbone=0 --train_matrix=alt"
ICLR = "--train_transform=lorm_iclr_train --test_transform=lorm_iclr_test"

# Recipe; --distribution_alpha, --lr, --r, --lr_B, --lr_A; what else the command has.
PUBLISHED = {
    "cifar100-b0.5": ("seq-cifar100", "0.5 0.003 1 -1 -1", ""),
    "cifar100-b0.1": ("seq-cifar100", "0.1 0.0003 16 -1 -1", ""),
    "cifar100-b0.05": ("seq-cifar100", "0.05 0.0005 16 -1 -1", ""),
    "imagenet_r-b0.5": ("seq-imagenetr", "0.5 0.003 2 -1 -1", "--regmean_rounds=2"),
    "imagenet_r-b0.1": ("seq-imagenetr", "0.1 0.001 32 -1 -1", "--regmean_rounds=2"),
    "imagenet_r-b0.05": ("seq-imagenetr", "0.05 0.001 16 -1 -1", "--regmean_rounds=2"),
    "eurosat-b1.0": ("seq-eurosat", "1.0 0.003 1 -1 -1", f"--regmean_rounds=2 {ICLR}"),
    "eurosat-b0.5": ("seq-eurosat", "0.5 0.001 1 -1 -1", f"--regmean_rounds=2 {ICLR}"),
    "eurosat-b0.2": ("seq-eurosat", "0.2 0.003 1 -1 -1", f"--regmean_rounds=2 {ICLR}"),
    "cub200-b1.0": ("seq-cub200", "1.0 0.01 1 -1 0.003", "--regmean_rounds=2 --alpha_regmean_head=0.3"),
    "cub200-b0.5": ("seq-cub200", "0.5 0.03 1 -1 0.001", "--regmean_rounds=2 --alpha_regmean_head=0.3"),
    "cub200-b0.2": ("seq-cub200", "0.2 0.03 1 -1 0.003", "--regmean_rounds=2 --alpha_regmean_head=0.3"),
    "cars196-b1.0": ("seq-cars", "1.0 0.01 8 0.001 0.01", "--regmean_rounds=2 --num_comm_rounds=10"),
    "cars196-b0.5": ("seq-cars", "0.5 0.01 8 0.001 0.01", "--regmean_rounds=2 --num_comm_rounds=10"),
    "cars196-b0.2": ("seq-cars", "0.2 0.01 4 0.001 0.01", "--regmean_rounds=2 --num_comm_rounds=10"),
    "imagenet_a-b1.0": ("seq-imageneta", "1.0 0.01 4 0.001 0.01", "--regmean_rounds=2 --num_comm_rounds=10"),
    "imagenet_a-b0.5": ("seq-imageneta", "0.5 0.01 4 0.001 0.01", "--regmean_rounds=2 --num_comm_rounds=10"),
    "imagenet_a-b0.2": ("seq-imageneta", "0.2 0.01 4 0.001 0.01", "--regmean_rounds=2 --num_comm_rounds=10"),
}


def values(command):
    return translate(command.split()).values


def flat(command):
    return {f"{section}.{key}": value for section, table in values(command).items() for key, value in table.items()}


def lorm(more="", data="seq-cifar100"):
    return f"{BARE.format('lorm', data, 'vit')} {more}"


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_every_published_command_is_its_recipe(recipe):
    data, numbers, more = PUBLISHED[recipe]
    flags = zip(("distribution_alpha", "lr", "r", "lr_B", "lr_A"), numbers.split(), strict=True)
    command = f"{lorm(SHARED, data)} {' '.join(f'--{name}={text}' for name, text in flags)} {more}"
    assert config.parse(values(command)) == config.read(f"lorm/{recipe}", ["run.seed=42"])


def test_a_flag_that_is_absent_has_their_default():
    assert flat(lorm(data="seq-imageneta")) == {
        "method.name": "lorm",
        "method.gram": "full",
        "method.gram_off_diagonal": 0.5,
        "method.gram_model": "averaged",
        "method.gram_data": "augmented",
        "method.gram_passes": 1,
        "method.head_off_diagonal": 0.5,
        "method.head_bias": "averaged",
        "data.name": "imagenet_a",
        "data.augment": "resized_crop_flip",
        "stream.tasks": 10,
        "partition.kind": "dirichlet",
        "partition.clients": 10,
        "partition.beta": 1.0,
        "partition.min_samples": 6,
        "backbone.name": "timm:vit_base_patch16_224.augreg_in21k",
        "adapter.kind": "lora",
        "adapter.rank": 16,
        "training.rounds": 5,
        "training.epochs": 5,
        "training.batch_size": 16,
        "training.lr": 3e-4,
        "training.optimizer": "adamw",
        "training.weight_decay": 0.1,
        "training.precision": "fp32",
        "run.device": "auto",
        "run.seed": 42,
    }


def test_flags_are_written_in_any_way():
    plain = values(lorm("--num_comm_rounds=3 --lr_B=-1"))
    assert values(lorm("--num-comm-rounds 3 --lr_B -1")) == plain
    assert values("python main.py " + lorm("--num_comm_rounds=9 --num_comm_rounds=3 --lr_B -1")) == plain


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (lorm("--participation_rate=0.35"), {"partition.clients_per_round": 3}),
        (lorm("--partition_mode=quantity"), {"partition.kind": "quantity", "partition.alpha": 2}),
        (lorm("--precision=bf16-mixed --device=cpu"), {"training.precision": "bf16", "run.device": "cpu"}),
        (lorm("--alpha_regmean_backbone=0.9"), {"method.gram": "full", "method.gram_off_diagonal": 0.9}),
        (lorm("--model_name=dino"), {"backbone.name": "timm:vit_base_patch16_224.dino"}),
        (lorm(data="joint-imagenetr"), {"data.name": "imagenet_r", "stream.tasks": 1}),
        (BARE.format("lorm", "seq-oos_3", "t5"), {"backbone.name": "google-t5/t5-small", "stream.tasks": 3}),
        (BARE.format("ewc", "seq-oos", "t5") + " --ewc_lambda=3", {"method.strength": 6, "method.gamma": 0.9}),
        (BARE.format("lwf", "seq-cars", "vit"), {"method.weight": 0.125, "method.temperature": 2}),
        (BARE.format("derpp", "seq-cars", "vit"), {"method.buffer": 200, "method.batch": 16}),
        (BARE.format("pilora3", "seq-cars", "vit"), {"method.temperature": 0.2, "adapter.rank": 4}),
        (
            BARE.format("pilora3", "seq-cars", "vit") + " --lr=0.02 --lr_back=1e-4",
            {"training.lr": 0.02, "training.lr_A": 1e-4, "training.lr_B": 1e-4},
        ),
        (BARE.format("regmean", "seq-cars", "vit") + " --lr_back=1e-6", {"training.lr_base": 1e-6}),
        (BARE.format("coda_prompt", "seq-eurosat", "vit_prompt_coda"), {"method.components": 20}),
        (BARE.format("dual_prompt", "seq-cars", "vit_prompt_dual"), {"method.expert_length": 20, "training.lr": 5e-3}),
        (BARE.format("l2p", "seq-cars", "vit_l2p"), {"method.pool": 10, "method.matching": 0}),
    ],
)
def test_what_flags_mean(command, expected):
    assert expected.items() <= flat(command).items()


def test_what_does_not_apply_sets_nothing():
    assert "partition.beta" not in flat(lorm("--partition_mode=quantity --distribution_alpha=0.1"))
    assert "partition.alpha" not in flat(lorm("--class_quantity=3"))
    assert "partition.clients_per_round" not in flat(lorm("--participation_rate=1"))
    assert not {"training.lr_A", "training.lr_B"} & flat(lorm("--lr_A=-1 --lr_B=-1")).keys()


def test_rows_say_what_is_given_what_is_default_and_what_has_no_effect():
    rows = {row.flag: row.cells[1:] for row in translate(lorm("--lr=0.1 --wandb=True --regmean_all=1").split()).rows}
    assert rows["--lr=0.1"][0] == "training.lr = 0.1"
    assert rows["--wd_reg=0.1 (default)"][0] == "training.weight_decay = 0.1"
    assert rows["--wandb=True"] == ["no setting", "without effect here: every run writes its report"]
    assert rows["--regmean_all=1"] == ["as it is here", ""]
    assert not any(flag.startswith("--nickname") for flag in rows)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_a_valid_method(name):
    """Their defaults pass the method's own checks; CCVR's are refused, see below."""
    if MODELS[name].method not in METHODS:
        pytest.skip(f"there is no method {MODELS[name].method} yet")
    more = " --full_cov=True" if name == "ccvr" else ""
    for network in MODELS[name].networks:
        read = config.parse(values(BARE.format(name, "seq-cifar100", network) + more))
        make(config.options(read), Setting(config.adapter(read), config.training(read, augment=False), 1))


def test_every_name_is_known_here():
    assert {data.name for data in DATA.values()} <= DATASETS.keys()
    assert {network for model in MODELS.values() for network in model.networks} == NETWORKS.keys()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (BARE.format("lrom", "seq-cars", "vit"), r"--model=lrom is not known \(did you mean 'lorm'\?\); known are fed"),
        (BARE.format("lorm", "seq-car", "vit"), r"--dataset=seq-car is not known \(did you mean 'seq-cars'\?\)"),
        (BARE.format("lorm", "seq-cars", "vitt"), r"--network=vitt is not known \(did you mean 'vit'\?\)"),
        (BARE.format("lora", "seq-cars", "vit"), r"--model=lora cannot be honoured: .*--method fedit"),
        (BARE.format("lorm", "seq-mnist", "vit"), r"--dataset=seq-mnist cannot be honoured: there is no such data"),
        (BARE.format("lorm", "seq-cars", "resnet18"), r"--network=resnet18 cannot be honoured: it is trained from"),
        (BARE.format("lorm", "seq-cars", "vit_l2p"), r"--model=lorm goes with --network=vit or t5"),
        (lorm("--num_comm_round=3"), r"--num_comm_round is no flag of .*lorm \(did you mean 'num_comm_rounds'\?\)"),
        (lorm("--buffer_size=3"), r"--buffer_size is no flag of fed-mammoth's lorm"),
        ("--dataset=seq-cars --network=vit", r"needs --model; known are fedavg"),
        ("--model=lorm --dataset=seq-cars --network=vit", r"fed-mammoth needs --batch_size"),
        (lorm("--lr"), r"--lr has no value"),
        (lorm("--lr --r=3"), r"--lr has no value"),
        (lorm("3"), r"'3' is no flag; write --flag=value"),
        (lorm("--r=few"), r"--r=few cannot be honoured: it takes a whole number"),
        (lorm("--lr=low"), r"--lr=low cannot be honoured: it takes a number"),
        (
            lorm("--lora_head=True"),
            r"--lora_head=True cannot be honoured: the head is trained as it is; it takes False",
        ),
        (lorm("--train_matrix=A"), r"rounds train B and A in turns; it takes alt"),
        (lorm("--avg_type=equal"), r"clients count by their samples"),
        (lorm("--optimizer=RMSprop"), r"it takes AdamW or Adam or SGD"),
        (lorm("--partition_mode=extended"), r"it takes distribution or quantity"),
        (lorm("--participation_rate=0.01"), r"a share of at least one client"),
        (lorm("--checkpoint=a.pt"), r"fedbraid resume RUN; it takes no value"),
        (lorm("--pretrained=False"), r"fine-tuning begins with pre-trained weights"),
        (lorm("--train_transform=lorm_iclr_train"), r"it takes default_train"),
        (
            BARE.format("fedavg", "seq-cars", "vit") + " --slca=True",
            r"without effect in fed-mammoth; set training\.lr_b",
        ),
        (BARE.format("ccvr", "seq-cars", "vit"), r"--full_cov=False \(default\) cannot be honoured: .*it takes True"),
        (BARE.format("regmean", "seq-cars", "vit") + " --alpha_regmean_backbone=0", r"all Grams have one factor here"),
        (BARE.format("lwf", "seq-cars", "vit") + " --softmax_temp=3", r"fed-mammoth takes 2 whatever it says"),
    ],
)
def test_what_is_unknown_or_cannot_be_honoured_is_refused(command, message):
    with pytest.raises(UserError, match=message):
        translate(command.split())


def test_a_dry_run_prints_the_configuration_and_shows_the_translation(tmp_path):
    command = [*lorm("--lr=0.003").split(), "--set", "training.rounds=2", "--dry-run"]
    result = CliRunner().invoke(app, ["mammoth", *command], catch_exceptions=False)
    path = tmp_path / "config.toml"
    path.write_text(result.stdout)
    expected = values(lorm("--lr=0.003"))
    assert config.read(str(path)) == config.read(expected, ["training.rounds=2"])
    assert "--lr=0.003\ttraining.lr = 0.003" in result.stderr


def test_a_run_leaves_the_pipe_to_its_records(tmp_path):
    small = "data.name=digits data.classes=4 data.train_per_class=10 data.test_per_class=5 data.augment=none "
    small += "backbone.name=tiny stream.tasks=2 partition.min_samples=1"
    flags = lorm("--num_clients 2 --num_comm_rounds 1 --num_epochs 1").split()
    changes = [word for change in small.split() for word in ("--set", change)]
    folder = tmp_path / "run"
    result = CliRunner().invoke(app, ["mammoth", *flags, *changes, "--out", str(folder)], catch_exceptions=False)
    assert json.loads(result.stdout.splitlines()[-1])["finished"]
    assert config.read(str(folder / "config.toml")).partition.clients == 2
