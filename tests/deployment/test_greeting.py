"""What a site makes of a configuration that comes from the server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedbraid import config
from fedbraid.deployment import greeting
from fedbraid.deployment.answering import Answering
from fedbraid.deployment.greeting import CAP, local_config
from fedbraid.deployment.site import OwnBackbone, OwnMachine, SiteFolder, SiteTerms
from fedbraid.errors import RunError, UserError


def site(folder: Path, **terms: Any) -> SiteFolder:
    """A site whose data are in `own.csv` unless told otherwise."""
    return SiteFolder(
        folder, SiteTerms(**{"client": "north", "server": "127.0.0.1:9092", "data": {"name": "/own.csv"}, **terms})
    )


def sent(*settings: str, **changed: Any) -> greeting.Greeting:
    """What arrives of a configuration with these settings; `changed` are sections as a hostile server spells them."""
    text = greeting.write(config.read("", ["partition.kind=sites", *settings]), run="r", tested=False)
    facts = json.loads(text)
    for section, values in changed.items():
        facts["config"].setdefault(section, {}).update(values)
    return greeting.read(json.dumps(facts).encode())


def test_a_site_has_its_own_data_backbone_and_machine(tmp_path: Path) -> None:
    own = site(
        tmp_path,
        data={"name": "/data/north.csv", "label_column": "kind"},
        backbone=OwnBackbone(name="/models/here"),
        run=OwnMachine(device="cpu", threads=3),
    )
    found = local_config(sent("data.name=/server/data", "data.text_column=words", "backbone.name=/server/model"), own)
    assert (found.data.name, found.data.label_column, found.data.text_column) == ("/data/north.csv", "kind", "words")
    assert (found.backbone.name, found.run.device, found.run.threads) == ("/models/here", "cpu", 3)


def test_whether_grams_on_few_samples_may_leave_is_for_the_site_to_say(tmp_path: Path) -> None:
    assert local_config(sent("privacy.small_grams=allow"), site(tmp_path)).privacy.small_grams == "refuse"
    assert local_config(sent(), site(tmp_path, small_grams="allow")).privacy.small_grams == "allow"


@pytest.mark.parametrize(("budget", "told"), [([], "adds no noise"), (["privacy.epsilon=8"], "may spend epsilon = 8")])
def test_a_site_gives_no_more_than_its_own_budget(tmp_path: Path, budget: list[str], told: str) -> None:
    assert local_config(sent("privacy.epsilon=2"), site(tmp_path, epsilon=4)).privacy.epsilon == 2
    with pytest.raises(UserError, match=rf"{told}.*at most 4 .*site.toml, epsilon"):
        local_config(sent(*budget), site(tmp_path, epsilon=4))


def test_code_that_the_server_names_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    code = tmp_path / "hostile.py"
    code.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nclass Method: pass\n")
    for section in ("method", "data", "backbone"):
        own = site(tmp_path, data={}) if section == "data" else site(tmp_path)
        with pytest.raises(UserError, match=rf"{section}\.name = .*hostile\.py:Method' names code to run"):
            local_config(sent(**{section: {"name": f"{code}:Method"}}), own)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError):  # it is loaded now, and is no method
        local_config(sent(method={"name": f"{code}:Method"}), site(tmp_path, code="allow"))
    assert (tmp_path / "ran").exists()


def test_the_server_cannot_name_files_of_a_site(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not say where its data are"):
        local_config(sent("data.name=/etc/passwd"), site(tmp_path, data={}))
    assert local_config(sent("data.name=digits", "data.path=/etc"), site(tmp_path, data={})).data.path is None
    assert local_config(sent("partition.file=/etc/hosts"), site(tmp_path)).partition.file is None
    for backbone in ("/models/there", "timm:deit_tiny_patch16_224@/models/there.safetensors"):
        with pytest.raises(UserError, match="is a path on the server"):
            local_config(sent(f"backbone.name={backbone}"), site(tmp_path))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b" " * (CAP + 1), f"more than the {CAP} that are read"),
        (b"[" * 100_000, "sends no configuration"),
        (b"\xff\xfe", "sends no configuration"),
        (b"{}", "of the format"),
        (b'{"format": "fedbraid-run-1", "run": 1, "tested": true, "config": {}}', "of the format"),
        (b'{"format": "fedbraid-run-1", "run": "r", "tested": false, "config": {"data": 1}}', "no table 'data'"),
        (b'{"format": "fedbraid-run-1", "run": "r", "tested": false, "config": {"rum": {}}}', "unknown key 'rum'"),
    ],
)
def test_what_is_no_configuration_is_refused_and_changes_nothing(text: bytes, complaint: str, tmp_path: Path) -> None:
    with pytest.raises((RunError, UserError), match=complaint):
        Answering(site(tmp_path)).greet(text)
    assert not list(tmp_path.iterdir())


def test_a_site_that_was_not_greeted_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has not been greeted"):
        Answering(site(tmp_path)).answer(b"")
