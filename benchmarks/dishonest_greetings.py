"""Attacks by greeting: settings that are the site's own, malformed configurations, names of models and of code."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import torch
from dishonest_sites import CELL, COLUMN, HIDDEN, Target, World, attack, question, spelled

from fedbraid.config import Config
from fedbraid.config.shared import MAY_SET

OWN, MALFORMED, MODELS, CODE = "the site's own settings", "malformed greetings", "names of models", "code"


def taken(target: Target, text: bytes) -> str:
    """Whether the site takes note of this greeting."""
    return "" if target.greet(text).code else "the site took the greeting"


def setting(section: str, title: str, **values: Any) -> None:
    """An attack that sets what is the site's own to say, at a site of texts that counts its own test samples."""
    written = ", ".join(f"{section}.{key} = {json.dumps(value)}" for key, value in values.items())

    @attack(OWN, title or written)
    def greeted(world: World) -> str:
        target = world.site("texts", evaluate="allow")
        return taken(target, world.sent(world.config("texts"), tested=True, **{section: values}))


setting("data", "the column of patients is the label", label_column=COLUMN, classes=[CELL, "x"])
setting("data", "the column of patients is the text", text_column=COLUMN)
setting("data", "the column of patients is a number to be told", label_column=COLUMN, scores=["pearson"])
setting("data", "the column of patients names image files", image_column=COLUMN)
setting("data", "the column of patients tells the client", client_column=COLUMN)
setting("data", "another wording of prompts", template="chat")
setting("data", "nine tenths of the samples are to test on", test_fraction=0.9)
setting("data", "a copy of the data lies elsewhere", path="~/decoys")
setting("partition", "another site's partition file", file="~/partition.json")
setting("secure", "keys of the server's choice", identities={"north": "00" * 32})
setting("secure", "a lower threshold", threshold=3)
setting("privacy", "small Grams may leave", small_grams="allow")
setting("privacy", "one sample is enough", least_samples=1)
setting("run", "another device", device="meta")
setting("run", "a Ray cluster of the server's", ray="203.0.113.1:6379")
setting("run", "another runtime", runtime="inprocess")
setting("gate", "", samples=9)
setting("rum", "a section that nobody knows", x=1)
setting("cache", "a folder to write to", folder="/tmp")


@attack(OWN, "every other key of the configuration, one by one")
def every_other_key(world: World) -> str:
    target, config = world.site("texts"), world.config("texts")
    own = [
        (section, key)
        for section, table in Config().model_dump().items()
        for key in table
        if section not in MAY_SET or (MAY_SET[section] is not None and key not in (MAY_SET[section] or ()))
    ]
    found = [key for key in own if not target.greet(world.sent(config, **{key[0]: {key[1]: None}})).code]
    return f"the site took {found}" if found else ""


@attack(OWN, "a table where a value is wanted, with a path in it")
def nested(world: World) -> str:
    path = str(world.decoys / "passwords.csv")
    target = world.site("texts")
    return taken(target, world.sent(world.config("texts"), data={"name": {"name": path}, "classes": {"path": path}}))


@attack(OWN, "the server's path as data set, at a site that has its own")
def own_data(world: World) -> str:
    target, config = world.site("texts"), world.config("texts")
    target.greet(world.sent(config, data={"name": str(world.decoys / "passwords.csv")}))
    _, state, round = world.begun(config)
    target.answer(spelled(question(state.shared, round)))
    return ""  # a decoy that is opened, or a cell of one, is found by whoever looks at what came back


@attack(OWN, "the server's path as data set, at a site that has none")
def no_data(world: World) -> str:
    target = world.site("texts", data={})
    return taken(target, world.sent(world.config("texts"), data={"name": str(world.decoys / "passwords.csv")}))


@attack(OWN, "a million threads")
def threads(world: World) -> str:
    target, before = world.site(run={"threads": 2}), torch.get_num_threads()
    target.greet(world.sent(world.config("digits"), run={"threads": 10**6}))
    target.check()
    found = torch.get_num_threads()
    torch.set_num_threads(before)
    return f"{found} threads" if found > 2 else ""


@attack(OWN, "a run whose sites are others, so that nobody's samples are left out")
def others(world: World) -> str:
    target = world.site()
    target.greet(world.sent(world.config("digits"), partition={"sites": ["east", "west"]}))
    return "" if target.check().code else "the site took part under another's name"


@attack(OWN, "the number of classes in place of their names, so that the site would name its own")
def counted_classes(world: World) -> str:
    target, config = world.site("texts"), world.config("texts")
    target.greet(world.sent(config, data={"classes": 3}))
    target.check()
    _, state, round = world.begun(config)
    target.answer(spelled(question(state.shared, round)))
    return ""


@attack(OWN, "guesses at the names of classes, to see from the error which ones the site has")
def guessed_classes(world: World) -> str:
    def told(name: str) -> Sequence[str]:
        target = world.site("texts")
        target.greet(world.sent(world.config("texts"), data={"classes": ["bill", name]}, stream={"order": [name, 0]}))
        return [target.check().code]

    return "" if told(HIDDEN) == told("no such class") else "errors tell which classes there are"


def malformed(title: str, *texts: bytes | str) -> None:
    """An attack by greetings that are none; whatever they are, a code that somebody foresaw comes back."""

    @attack(MALFORMED, title)
    def greeted(world: World) -> str:
        target = world.site()
        codes = [target.greet(text.encode() if isinstance(text, str) else text).code for text in texts]
        return "" if all(codes) else "the site took the greeting"


def said(config: str, form: str = '"fedbraid-run-2"', run: str = '"r"', tested: str = "false") -> str:
    """A greeting as text."""
    return f'{{"format": {form}, "run": {run}, "tested": {tested}, "config": {config}}}'


malformed("10 MB of configuration", said(json.dumps({"data": {"classes": ["x" * 100] * 100_000}})), b" " * 10**7)
malformed("brackets without end", b"[" * 10**6, b'{"config":' * 10**5, said('{"method": {"name": ' + "[" * 10**5))
malformed("bytes that are no text", b"\xff\xfe\x00", said('{"data": {"name": "').encode() + b"\xc3\x28" + b'"}}}')
malformed(
    "another format", said("{}", '"fedbraid-run-1"'), said("{}", "null"), b"{}", b"", b"null", b"[]", b"\x80\x04."
)
malformed("a run's name that is no text", said("{}", run="1"), said("{}", run='["../.."]'), said("{}", tested='"no"'))
malformed("numbers of 5000 digits", said(f'{{"run": {{"seed": {"9" * 5000}}}}}'))
malformed("tables that are none", said('{"method": "fedit"}'), said('{"data": [1]}'), said('{"run": null}'), said("[]"))
malformed(
    "a key twice, of which one parser takes the first and another the last",
    said('{"data": {"name": "digits"}, "data": {"label_column": "x"}}'),
    said('{"data": {"classes": 4, "label_column": "x"}, "data": {"classes": 4, "path": "/"}}'),
)
malformed("lone surrogates", said('{"method": {"name": "\\ud800"}}'), said('{"backbone": {"name": "\\udfff"}}'))

ODD: Sequence[Any] = (True, -1, 0, 1e308, math.nan, math.inf, -math.inf, 10**30, "", "9" * 5000, "\0", [], {}, None)


@attack(MALFORMED, "every key that a server may set, with values of the wrong type and beyond every range")
def odd_values(world: World) -> str:
    target, config, values = world.site(), world.config("digits"), Config().model_dump()
    for section, keys in MAY_SET.items():
        for key in keys or values[section]:
            for odd in ODD:
                target.greet(world.sent(config, **{section: {key: odd}}))
    return ""


@attack(MALFORMED, "a hundred thousand tasks, classes, ranks, sites")
def long_lists(world: World) -> str:
    target, config, many = world.site(), world.config("digits"), 10**5
    for changed in (
        {"stream": {"sizes": [1] * many}},
        {"data": {"classes": [str(number) for number in range(many)]}},
        {"stream": {"order": [0] * many}},
        {"stream": {"order": ["9" * 5000, 1, 2, 3]}},
        {"adapter": {"ranks": [2] * many}},
        {"partition": {"sites": ["north", *(f"site {number}" for number in range(many))]}},
    ):
        if not target.greet(world.sent(config, **changed)).code:
            target.check()
    return ""


@attack(MALFORMED, "a run's name that leads out of the site's folder")
def run_name(world: World) -> str:
    target, config = world.site(), world.config("digits")
    _, state, round = world.begun(config)
    before = {*world.root.iterdir(), *world.root.parent.iterdir(), *target.folder.parent.iterdir()}
    for name in ("../../../escaped", "/escaped", "..", "", "\0", "x" * 10**5, "CON", "a/b"):
        target.greet(world.sent(config, name=name))
        target.answer(spelled(question(state.shared, round, run=name)))
    after = {*world.root.iterdir(), *world.root.parent.iterdir(), *target.folder.parent.iterdir()}
    outside = [path for path in after - before if path.name == "escaped" or world.root in path.parents]
    return f"files outside of the site's folder: {outside}" if outside else ""


PLACES = ("~", "..", "../../etc", "/etc", "~/.bashrc", "https://203.0.113.1/m", "timm:deit_tiny_patch16_224@~/.bashrc")
ALIKE = ("Tiny", "TINY", "tiny ", " tiny", "tiny/", "./tiny", "tiny/../tiny", "tin\u0443", "\uff54iny", "tiny\0", "")


def backbones(title: str, names: Sequence[str]) -> None:
    """An attack by names of models that are not on the site's list."""

    @attack(MODELS, title)
    def greeted(world: World) -> str:
        target, config = world.site(), world.config("digits")
        found = [name for name in names if not target.greet(world.sent(config, backbone={"name": name})).code]
        return f"the site took {found}" if found else ""


backbones("places in place of names", PLACES)
backbones("names that look like one of the list", ALIKE)


@attack(MODELS, "a folder that is there and one that is not, to see from the answer which")
def present(world: World) -> str:
    def told(name: str) -> str:
        return str(world.site().greet(world.sent(world.config("digits"), backbone={"name": name})))

    there, missing = told(str(world.decoys)), told(str(world.decoys / "nothing"))
    return "" if there == missing else "whether a folder is there"


@attack(MODELS, "a list, a table and a number as the name of a model")
def no_name(world: World) -> str:
    target, config = world.site(), world.config("digits")
    odd: Sequence[Any] = (["tiny"], {"name": "tiny"}, 1, True, None)
    found = [name for name in odd if not target.greet(world.sent(config, backbone={"name": name})).code]
    return f"the site took {found}" if found else ""


@attack(MODELS, "a method that is not on the site's list, in several spellings")
def other_method(world: World) -> str:
    target, config = world.site(), world.config("digits")
    names = ("afl", "FedIT", "fedit ", "fed\u0456t", "", "joint")
    found = [name for name in names if not target.greet(world.sent(config, method={"name": name})).code]
    return f"the site took {found}" if found else ""


def code(title: str, section: str, key: str, *names: str, allowed: bool = False) -> None:
    """An attack that names code to run; `allowed` sites have the name on their list of methods, but no code."""

    @attack(CODE, title)
    def greeted(world: World) -> str:
        named = [name.format(file=world.decoys / "hostile.py") for name in names]
        own = {"data": {}} if section == "data" else {}
        target = world.site(methods=("fedit", *named) if allowed else ("fedit",), **own)
        for name in named:
            value: Any = [name] if key == "scores" else name
            if not target.greet(world.sent(world.config("digits"), **{section: {key: value}})).code:
                target.check()
        return ""  # a marker is found by whoever looks


FILE, MODULE = "{file}:Method", "this.module:Method"
code("a file as method", "method", "name", FILE, MODULE)
code("a file as method, at a site that serves that name but runs no code", "method", "name", FILE, allowed=True)
code("a file as data set", "data", "name", "{file}:DATA", MODULE)
code("a file as backbone", "backbone", "name", FILE, MODULE, "timm:x@{file}")
code("a file as score", "data", "scores", FILE, MODULE)
code("a file among the classes, the order, the layers", "adapter", "layers", FILE)
code("code as an option of the method", "method", "objective", FILE, "__import__('os').system('true')")


@attack(CODE, "a folder with a damaged backbone of the site's own list")
def damaged_model(world: World) -> str:
    target = world.site(backbones={"tiny": str(world.decoys / "nothing")})
    target.greet(world.sent(world.config("digits")))
    return "" if target.check().code else "the site took part"
