"""What a site makes of a configuration that comes from the server: an allow-list, and the site has the last word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedbraid import config
from fedbraid.config import Config
from fedbraid.config.shared import MAY_SET
from fedbraid.deployment import handshake
from fedbraid.deployment.answering import Answering
from fedbraid.deployment.handshake import CAP, local_config
from fedbraid.deployment.site import OwnMachine, SiteFolder, SiteTerms, read_site
from fedbraid.errors import RunError, UserError
from fedbraid.runtimes.faults import code_of

OPEN = {"methods": ("lorm",), "backbones": {"tiny": "tiny"}, "least_samples": 1, "data": {"name": "/own.csv"}}


def site(folder: Path, **terms: Any) -> SiteFolder:
    """A site that serves LoRM on the embedded backbone, whose data are in `own.csv`, unless told otherwise."""
    return SiteFolder(folder, SiteTerms(**{"client": "north", "server": "127.0.0.1:9092", **OPEN, **terms}))


def sent(*settings: str, tested: bool = False, **changed: Any) -> bytes:
    """What arrives of a configuration with these settings; `changed` are sections as a hostile server spells them."""
    text = handshake.write(config.read("", ["partition.kind=sites", *settings]), run="r", tested=tested)
    facts = json.loads(text)
    for section, values in changed.items():
        facts["config"].setdefault(section, {}).update(values)
    return json.dumps(facts).encode()


def made(own: SiteFolder, *settings: str, **changed: Any) -> Config:
    return local_config(handshake.read(sent(*settings, **changed)), own)


def test_a_site_has_its_own_data_backbone_and_machine(tmp_path: Path) -> None:
    own = site(
        tmp_path,
        data={"name": "/data/north.csv", "label_column": "kind"},
        backbones={"model": "/models/here"},
        run=OwnMachine(device="cpu", threads=3),
    )
    settings = ("data.name=/server/data", "data.text_column=words", "backbone.name=/server/model", "run.threads=64")
    found = made(own, *settings)
    assert (found.data.name, found.data.label_column, found.data.text_column) == ("/data/north.csv", "kind", None)
    assert (found.backbone.name, found.run.device, found.run.threads) == ("/models/here", "cpu", 3)
    assert b"/server/" not in sent(*settings), "nobody needs to know the server's folders"


KEYS = [
    f"{section}.{key}"
    for section, table in Config().model_dump().items()
    for key in (table if section != "method" else ())
    if section not in MAY_SET or (MAY_SET[section] is not None and key not in (MAY_SET[section] or ()))
]


def test_the_keys_that_are_the_sites_own_are_these() -> None:
    """A key that is added to the configuration must be thought about: it is a site's own until `MAY_SET` lists it."""
    assert {key for key in KEYS if key.split(".")[0] in ("data", "partition", "privacy", "secure", "run")} == {
        *(
            f"data.{name}_column"
            for name in ("text", "prompt", "answer", "category", "pair", "image", "label", "client")
        ),
        *(f"data.{name}" for name in ("path", "template", "test_fraction", "validation_fraction")),
        *("data.test_per_class", "data.test_samples"),
        *(f"partition.{name}" for name in ("clients", "beta", "alpha", "min_samples", "file")),
        *("privacy.small_grams", "privacy.least_samples", "secure.threshold", "secure.identities"),
        *("run.device", "run.evaluate", "run.runtime", "run.at_once", "run.gpus", "run.ray"),
    }


@pytest.mark.parametrize("key", [*KEYS, "data.path", "rum.x", "partition.file"])
def test_every_other_key_is_refused_by_name_and_changes_nothing(key: str, tmp_path: Path) -> None:
    section, name = key.split(".")
    with pytest.raises(
        RunError, match=rf"the server sets (\[{section}\]|.*{section}\.{name}).* for the site alone"
    ) as error:
        Answering(site(tmp_path)).greet(sent(**{section: {name: "x"}}))
    assert code_of(error.value) == ("not allowed", None)
    assert not list(tmp_path.iterdir())


def test_a_server_sends_nothing_else() -> None:
    everything = json.loads(sent("data.text_column=words", "gate.samples=9", "run.device=cpu"))["config"]
    assert all(section in MAY_SET for section in everything)
    assert "words" not in json.dumps(everything)


@pytest.mark.parametrize(
    ("terms", "settings", "told"),
    [
        ({"methods": ("fedit",)}, [], r"method is 'lorm'.*methods = \['fedit'\]"),
        ({"methods": ()}, [], "method is 'lorm'"),
        ({"backbones": {}}, [], r"backbone is 'tiny'.*\[backbones\] has \[\]"),
        ({"modes": ("masked",)}, [], "takes part in masked sums alone"),
        ({"modes": ("private",)}, [], "has no budget"),
        ({"epsilon": 4}, [], "has no budget"),
        ({"epsilon": 4}, ["privacy.epsilon=8"], "may spend epsilon = 8.*epsilon = 4"),
        ({"delta": 1e-6}, ["privacy.epsilon=8"], "delta = 1e-05.*delta = 1e-06"),
    ],
)
def test_what_site_toml_does_not_allow_is_refused(terms: dict, settings: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"site north: .*{told}") as error:
        made(site(tmp_path, **terms), *settings)
    assert code_of(error.value) == ("not allowed", None)


def test_a_site_made_by_hand_refuses(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('client = "north"\nserver = "127.0.0.1:9092"\ninsecure = true\n')
    own = read_site(tmp_path)
    assert (own.terms.methods, own.terms.backbones, own.terms.evaluate, own.terms.least_samples) == (
        (),
        {},
        "refuse",
        20,
    )
    with pytest.raises(UserError, match="does not allow"):
        made(own)


def test_test_samples_are_counted_where_the_site_allows_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="asks for counts of right answers on this site's test samples"):
        local_config(handshake.read(sent(tested=True)), site(tmp_path))
    assert local_config(handshake.read(sent(tested=True)), site(tmp_path, evaluate="allow"))


def test_what_may_leave_is_for_the_site_to_say(tmp_path: Path) -> None:
    found = made(site(tmp_path, least_samples=7), "privacy.small_grams=allow", "privacy.least_samples=1")
    assert (found.privacy.small_grams, found.privacy.least_samples) == ("refuse", 7)
    assert made(site(tmp_path, small_grams="allow")).privacy.small_grams == "allow"
    assert made(site(tmp_path, epsilon=4), "privacy.epsilon=2").privacy.epsilon == 2


def test_code_that_the_server_names_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    code = tmp_path / "hostile.py"
    code.write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nclass Method: pass\n")
    named = {"name": f"{code}:Method"}
    for section, own in (("method", site(tmp_path, methods=(f"{code}:Method",))), ("data", site(tmp_path, data={}))):
        with pytest.raises(UserError, match=r"hostile\.py:Method' names code to run"):
            made(own, **{section: named})
    with pytest.raises(UserError, match="the server's backbone is"):
        made(site(tmp_path), backbone=named)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError):  # it is loaded now, and is no method
        made(site(tmp_path, code="allow", methods=(f"{code}:Method",)), method=named)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "backbone",
    [
        "timm:deit_tiny_patch16_224@~/.bashrc",
        "../../etc",
        "/etc",
        "~",
        "tiny/../tiny",
        "https://example.org/m",
        "",
        "tiny ",
    ],
)
def test_a_backbone_is_a_name_of_the_sites_list_and_no_place(backbone: str, tmp_path: Path, monkeypatch) -> None:
    agreed = handshake.read(sent(backbone={"name": backbone}))
    with monkeypatch.context() as patched:
        for touches in ("exists", "stat", "open", "resolve"):
            patched.setattr(Path, touches, lambda *_: pytest.fail("the disk was touched"))
        with pytest.raises(UserError, match="the server's backbone is"):
            local_config(agreed, site(tmp_path))


def test_the_server_cannot_say_where_data_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not say where its data are"):
        made(site(tmp_path, data={}), data={"name": "/etc/passwd"})
    assert made(site(tmp_path), data={"name": "/etc/passwd"}).data.name == "/own.csv"
    (tmp_path / "site.toml").write_text(
        'client = "n"\nserver = "a:1"\ninsecure = true\n[data]\nscores = ["accuracy"]\n'
    )
    with pytest.raises(UserError, match=r"\[data\]: scores are the same for all sites"):
        read_site(tmp_path)


@pytest.mark.parametrize("threads", [1000000, -1, "many", 2.5, True])
def test_threads_are_capped_or_refused(threads: Any, tmp_path: Path) -> None:
    found = made(site(tmp_path, run=OwnMachine(threads=2)), run={"threads": threads})
    assert 1 <= (found.run.threads or 0) <= 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b" " * (CAP + 1), f"more than the {CAP} that are read"),
        (b"[" * 100_000, "sends no configuration"),
        (b"\xff\xfe", "sends no configuration"),
        (b"{}", "of the format"),
        (b'{"format": "fedbraid-run-2", "run": 1, "tested": true, "config": {}}', "of the format"),
        (b'{"format": "fedbraid-run-2", "run": "r", "tested": false, "config": {"data": 1}}', "no table 'data'"),
        (b'{"format": "fedbraid-run-2", "run": "r", "tested": false, "config": {"rum": {}}}', "the server sets .rum"),
        (b'{"format": "fedbraid-run-2", "run": "r", "tested": false, "config": {}}', "the server's method is ''"),
    ],
)
def test_what_is_no_configuration_is_refused_and_changes_nothing(text: bytes, complaint: str, tmp_path: Path) -> None:
    with pytest.raises((RunError, UserError), match=complaint):
        Answering(site(tmp_path)).greet(text)
    assert not list(tmp_path.iterdir())


def test_a_site_that_was_not_greeted_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="has not been greeted"):
        Answering(site(tmp_path)).answer(b"")
