"""A deployed federation over real sockets, recorded by a proxy that ends its TLS, and then attacked.

    python benchmarks/recorded_wire.py          tables; exit status 1 where something leaks or is not refused
    python benchmarks/recorded_wire.py --json   the same for programs

LoRM on texts, three sites with tables and test samples of their own, TLS and node keys. Two tasks run undisturbed while
everything that passes between sites and server is kept. All of it is decoded: every tensor, field and word that left a
site is compared with what its `privacy.json` lists, and searched for words that only the sites' tables hold. Then a
third task is laid behind while the line, a registered site and strangers attack. The run must end with the state of a
run in one process that nobody attacked.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from federations import SITES, activity, fedbraid, finish, given, results, wait_for
from intruding import Finding, copied, knocks, own_address, refused, started, with_new_key
from recording_proxy import Exchange, Part, Recorder, standing_between
from sentinel_tables import COLUMNS, Tables, written
from wire_attacks import Attacker, answers, taken
from wire_contents import compared, decoded, everything, hits, messages, sizes, unlisted
from wire_secrets import Watching, logged, open_to_others, secrets, watching

from fedbraid.deployment.hosting import free_port
from fedbraid.deployment.keys import make_certificates
from fedbraid.deployment.supervising import end
from fedbraid.privacy.guard import read
from fedbraid.testing import random_bert

BEGUN = ["data.classes=4", "stream.sizes=[2,2]"]
EXTENDED = ["data.classes=6", "stream.sizes=[2,2,2]"]
SETTINGS = [
    *("method.name=lorm", "training.rounds=2", "training.epochs=1", "adapter.rank=2", "adapter.blocks=0"),
    *("run.evaluate=task", "rounds.retries=2", "rounds.deadline=30", "privacy.small_grams=allow"),
]
VICTIM, INSIDER, IMPOSTOR = SITES
"""Whose answers are attacked; who does it with a key of his own; whose node calls itself by the victim's name."""
CONTROL = "class 1"
"""A class that the server names to all: what is searched for is found."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sentinelroot") as scratch:
        found = measured(Path(scratch))
    found["seconds"] = round(time.monotonic() - begin)
    print(json.dumps(found, indent=1) if options.json else "\n".join(_lines(found)))
    sys.exit(bool(found["leaks"]) or not all(one["refused"] for one in found["attacks"]))


def measured(root: Path) -> dict[str, Any]:
    """Everything that is found, as plain data."""
    model = random_bert(root / "model")
    tables = written(root / "data", SITES, model)
    settings = [*SETTINGS, f"backbone.name={model}"]
    union = [f"data.name={tables.union}", "partition.kind=natural"]
    fedbraid("run", "--out", str(root / "whole"), *given([*settings, *union, *EXTENDED]))
    fed, address = root / "fed", (own_address(), free_port())
    _init(fed, address, tables, settings)
    recorder, own = Recorder(), fed / "certificates"
    shown = {"certificate": own / "server.crt", "key": own / "server.key", "authority": own / "ca.crt"}
    with watching(fed) as seen, standing_between(SITES, address, recorder, **shown) as ports:
        for site, path in tables.sites.items():
            _point(fed / "sites" / site / "site.toml", address, ports[site], path)
        try:
            fedbraid("deploy", "up", str(fed))
            finish(fed)
            quiet = list(recorder.exchanges)
            found = _contents(fed, quiet, tables)
            attacks, printed = _attacked(root, fed, address, recorder, quiet)
        finally:
            fedbraid("deploy", "down", str(fed))
        found["leaks"] += _secrets(fed, recorder.exchanges, seen, printed)
        found["secrets"] = {"keys and words": len(secrets(fed)), "tokens": len(seen.tokens), "looks": seen.looks}
    same = results(fed / "run").get("state_sha256") == results(root / "whole")["state_sha256"]
    words = "the state of a run in one process that nobody attacked" if same else "ANOTHER STATE"
    attacks.append(Finding("the run, after all of these", same, words))
    return {**found, "attacks": [asdict(one) for one in attacks]}


def _init(fed: Path, address: tuple[str, int], tables: Tables, settings: Sequence[str]) -> None:
    sites = [part for site, path in tables.sites.items() for part in ("--site", f"{site}={path}")]
    where = ["--address", f"{address[0]}:{address[1]}", "--evaluate", "sites", "--wait", "5"]
    fedbraid("deploy", "init", str(fed), *where, *sites, *given([*settings, *BEGUN, f"data.name={tables.server}"]))


def _point(terms: Path, address: tuple[str, int], port: int, data: Path) -> None:
    """Leads a site to the proxy, and tells it how its own table is read."""
    text = terms.read_text().replace(f'"{address[0]}:{address[1]}"', f'"127.0.0.1:{port}"')
    columns = "".join(f'{key} = "{name}"\n' for key, name in COLUMNS.items())
    assert f'name = "{data}"\n' in text
    terms.write_text(text.replace(f'name = "{data}"\n', f'name = "{data}"\n{columns}'))


def _contents(fed: Path, quiet: Sequence[Exchange], tables: Tables) -> dict[str, Any]:
    """What the undisturbed run sent, what of it is not listed, and what of the sites' tables is in it."""
    told = messages(quiet)
    rows, wrong = compared(told, {site: read(fed / "sites" / site / "privacy.json") for site in SITES})
    sought = tables.sentinels | {f"{site}'s own folder": str(fed / "sites" / site).encode() for site in SITES}
    seen = hits({**sought, CONTROL: CONTROL.encode()}, everything(quiet, told))
    blind = [] if seen.pop(CONTROL, 0) else [f"the search does not find {CONTROL!r}, which the server sends"]
    leaks = [
        *blind,
        *wrong,
        *unlisted(quiet, told),
        *(f"{name} is on the wire, {times} times" for name, times in seen.items()),
    ]
    return {
        "sent": [asdict(row) for row in rows],
        "sizes": {way: asdict(sizes(quiet, told, up=up)) for way, up in (("up", True), ("down", False))},
        "sought": len(sought),
        "exchanges": len(quiet),
        "leaks": leaks,
    }


def _attacked(
    root: Path, fed: Path, address: tuple[str, int], recorder: Recorder, quiet: Sequence[Exchange]
) -> tuple[list[Finding], list[bytes]]:
    """What became of every attack, and what the processes that took part printed."""
    printed: list[bytes] = []
    found = list(_strangers(root, fed, address, printed))
    nodes = [decoded(one)[0] for one in quiet if one.site == INSIDER and one.up.path.endswith("pull-messages")]
    node: int = nodes[-1].node.node_id  # pyright: ignore[reportAttributeAccessIssue]
    key = fed / "sites" / INSIDER / "node.key"
    attacker = Attacker(VICTIM, INSIDER, key, node, answers(quiet, VICTIM)[0])
    recorder.change = attacker.change
    impostor = fed / "sites" / IMPOSTOR
    end(impostor / "processes" / "site.json")
    with _misnamed(impostor / "site.toml"), started("site", impostor):
        fedbraid("deploy", "run", str(fed), *given(EXTENDED))
        calls = f"its node calls itself '{VICTIM}', and is registered as '{IMPOSTOR}'"
        wait_for(lambda: any(entry.get("reason") == calls for entry in activity(fed)))
    found.append(Finding("a registered node under another client's name", refused=True, words=calls))
    with started("site", impostor) as (_, output):
        finish(fed)
    printed.append(output.read_bytes())
    return [*found, *_on_the_line(fed, attacker)], printed


def _strangers(root: Path, fed: Path, address: tuple[str, int], printed: list[bytes]) -> Iterator[Finding]:
    """Sites with what does not fit, and callers without anything."""
    site, own, folder = fed / "sites" / VICTIM, fed / "certificates", root / "strangers"
    folder.mkdir(mode=0o700)
    strange = with_new_key(site, folder / "strange")
    yield refused("a site with a key that is not registered", strange, "its key is not registered", printed)
    plain = copied(site, folder / "plain", {"insecure = false": "insecure = true"})
    yield refused("a site without TLS, a server with it", plain, "TLS|insecure", printed)
    make_certificates(folder / "other", ["127.0.0.1"])
    other = {"certificate": folder / "other" / "server.crt", "key": folder / "other" / "server.key"}
    with standing_between([VICTIM], address, Recorder(), **other, authority=own / "ca.crt") as ports:
        fooled = copied(site, folder / "fooled", {_server(site): f'server = "127.0.0.1:{ports[VICTIM]}"'})
        yield refused("a server of another authority", fooled, "certificate|authority", printed)
    yield from _without_tls(root, site, folder, printed)
    yield from knocks(address, own / "ca.crt", strange / "node.key", site / "node.key")


def _without_tls(root: Path, site: Path, folder: Path, printed: list[bytes]) -> Iterator[Finding]:
    port = free_port()
    where = ["--address", f"127.0.0.1:{port}", "--insecure", "--site", f"{VICTIM}={root / 'data'}"]
    fedbraid("deploy", "init", str(folder / "open"), *where, *given([f"data.name={root / 'data' / 'server'}"]))
    with started("server", folder / "open") as (_, output):
        wait_for(lambda: "Uvicorn running" in _text(folder / "open" / "logs" / "link.log"))
        secure = copied(site, folder / "secure", {_server(site): f'server = "127.0.0.1:{port}"'})
        yield refused("a site with TLS, a server without it", secure, "TLS|insecure", printed)
    printed.append(output.read_bytes())


@contextmanager
def _misnamed(terms: Path) -> Iterator[None]:
    """While a site calls itself by the victim's name."""
    text = terms.read_text()
    terms.write_text(text.replace(f'client = "{IMPOSTOR}"', f'client = "{VICTIM}"'))
    try:
        yield
    finally:
        terms.write_text(text)


def _on_the_line(fed: Path, attacker: Attacker) -> Iterator[Finding]:
    """What the server said of answers that were put in the place of others, and in which of its logs."""
    link, events = _text(fed / "logs" / "link.log"), "\n".join(entry.get("reason", "") for entry in activity(fed))
    old = "an earlier answer, put in the place of a later one"
    for attack, name, words, where in (
        (old, "substituted", "an answer to this question", events),
        ("a signed request, sent a second time", "replayed", "The message it replies to", link),
        ("the same, once its Flower run has ended", "replayed over runs", "push-messages.*exception: Run", link),
        ("a registered node that answers in another's name", "in another's name", "in another's name", link),
        ("a bit of an answer flipped", "changed", "does not match content hash", link),
    ):
        response = attacker.done.get(name)
        said = next((line for line in where.splitlines() if re.search(words, line)), "")
        stopped = response is not None and (attack == old or not taken(response))
        yield Finding(attack, bool(said) and stopped, _short(said.strip(), response))


def _secrets(fed: Path, exchanges: Sequence[Exchange], seen: Watching, printed: Sequence[bytes]) -> list[str]:
    """Where secrets are that should not be there, and what others may read."""
    sought = secrets(fed)
    on_wire = hits(sought, (part.bytes() for one in exchanges for part in (one.up, one.down)))
    return [
        *(f"the secret {name} is on the wire" for name in on_wire),
        *seen.shown(sought),
        *logged(sought | seen.named_tokens(), fed, printed),
        *open_to_others(fed),
    ]


def _server(site: Path) -> str:
    found = re.search(r"^server = .*$", (site / "site.toml").read_text(), re.MULTILINE)
    assert found
    return found.group()


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _short(words: str, response: Part | None) -> str:
    status = "never sent" if response is None else f"{response.status}"
    plain = re.sub(r"\x1b\[\d+m", "", words)
    return f"{status}: {plain[:160]}" if words else f"{status}: NOT NAMED"


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield "what left the sites, tasks 1 and 2\tphase\ttimes\ttensors\tbytes\tin privacy.json\tparts"
    for row in found["sent"]:
        cells = (row[key] for key in ("site", "phase", "times", "tensors", "bytes", "listed", "parts"))
        yield "\t".join(map(str, cells))
    yield "\ndirection\tbytes in the clear\ttensors\tframing\tFlower\tHTTP"
    for way, row in found["sizes"].items():
        yield "\t".join(map(str, (way, *row.values())))
    yield f"\n{found['exchanges']} requests; {found['sought']} words of the sites sought in all of it"
    yield "secrets sought: " + ", ".join(f"{count} {what}" for what, count in found["secrets"].items())
    yield "\nattack\trefused\twords"
    for one in found["attacks"]:
        yield "\t".join((one["attack"], "yes" if one["refused"] else "NO", one["words"]))
    yield "\nleaks: " + ("none" if not found["leaks"] else "")
    yield from found["leaks"]
    yield f"\n{found['seconds']} s"


if __name__ == "__main__":
    main()
