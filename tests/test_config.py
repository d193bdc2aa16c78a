"""Configurations: defaults, overrides, round trip, and errors that name the key and the nearest one."""

from __future__ import annotations

import pytest

from fedbraid import config
from fedbraid.errors import UserError


def test_the_default_is_lorm_on_digits_over_five_clients():
    default = config.read("")
    assert default.method["name"] == "lorm"
    assert (default.data.name, default.backbone.name) == ("digits", "tiny")
    assert (default.partition.clients, default.partition.beta) == (5, 0.5)


@pytest.mark.parametrize("name", ["", *config.recipes()])
def test_a_configuration_survives_toml(tmp_path, name):
    before = config.read(name)
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(before))
    assert config.read(str(path)) == before


def test_overrides_come_after_the_file_and_keep_its_other_values(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('[method]\nname = "lorm"\ngram = "full"\n[training]\nlr = 0.1\nepochs = 2\n')
    changed = config.read(str(path), ["training.lr=0.5", "method.ridge=1e-3", "data.name=cifar100"])
    assert (changed.training.lr, changed.training.epochs) == (0.5, 2)
    assert (changed.method["gram"], changed.method["ridge"], changed.data.name) == ("full", 1e-3, "cifar100")


def test_a_recipe_is_run_with_another_method_without_the_options_of_its_own():
    given = config.read("lorm/cifar100-b0.5", ["method.name=ewc", "method.strength=7", "training.rounds=2"])
    assert given.method == {"name": "ewc", "strength": 7.0, "gamma": 1.0, "samples": 256}
    assert (given.training.rounds, given.partition.beta) == (2, 0.5)


def test_an_override_may_name_the_method_alone():
    assert config.read("", ["method=fedit"]).method == {"name": "fedit"}
    assert config.read("", ["method=lorm", "method.gram=full"]).method["gram"] == "full"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", r"unknown key 'training\.epoch' \(did you mean 'epochs'\?\)"),
        ("trainin.epochs=3", r"unknown key 'trainin' \(did you mean 'training'\?\)"),
        ("training.epochs=0", r"training\.epochs = 0: input should be greater than or equal to 1"),
        ("training.lr=fast", r"training\.lr = 'fast'"),
        ("method.name=lrom", r"unknown method 'lrom' \(did you mean 'lorm'\?\); methods: joint, fedavg"),
        ("method.gramm=full", r"method 'lorm' has no option 'gramm' \(did you mean 'gram'\?\)"),
        ("method.gram=fool", r"method: gram = 'fool'"),
        ("lr", r"--set 'lr' is no key=value"),
        ("training=3", r"training = 3"),
        ("data.name.x=3", r"data\.name"),
    ],
)
def test_errors_name_the_key_and_what_to_do(override, message):
    with pytest.raises(UserError, match=message):
        config.read("", [override])


def test_a_missing_file_names_the_nearest_recipe():
    with pytest.raises(UserError, match=r"no configuration file 'lorm/cifar10-b0.5'.*mean 'lorm/cifar100-b0.5'"):
        config.read("lorm/cifar10-b0.5")


def test_toml_that_is_none_is_an_error_with_the_file(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("[training\n")
    with pytest.raises(UserError, match=r"bad\.toml is no valid TOML"):
        config.read(str(path))
