"""Attacks by what goes wrong at a site, and by settings that would take all of its memory."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dishonest_sites import CELL, COLUMN, FOLDER, Came, World, attack, question, spelled
from small_runs import child

from fedbraid.deployment.site import read_site

ERRORS, EXHAUSTION = "errors", "exhaustion"
GIB = 2**30


def broken(
    title: str,
    kind: str,
    greeted: Mapping[str, Any] | None = None,
    *,
    rows: Callable[[bytes], bytes] | None = None,
    spoils: str = "",
    **data: Any,
) -> None:
    """An attack on a site where something is wrong, whose error is a sentence about it: a code alone may leave.

    Wrong are its `rows`, a file of its own that is spoiled, or what its `site.toml` says of its data; the server has
    `greeted` it with settings of [data] that meet that.
    """

    @attack(ERRORS, title)
    def provoked(world: World) -> str:
        target = world.site(kind)
        terms = read_site(target.folder).terms
        own = {**terms.data, **data}
        if rows:
            changed = rows((Path(terms.data["name"]) / "train.csv").read_bytes())
            own["name"] = str(target.folder / FOLDER)
            (target.folder / FOLDER).mkdir()
            (target.folder / FOLDER / "train.csv").write_bytes(changed)
        if spoils:
            (target.folder / spoils).write_text(CELL)
        target.allow(data=own)
        target.greet(world.sent(world.config(kind), data=greeted or {}))
        target.check()
        _, state, round = world.begun(world.config(kind))
        came = target.answer(spelled(question(state.shared, round)))
        told = json.loads(came.content) if came.code else {}
        return "" if came.code and told.keys() <= {"code", "needed"} else f"{came.content[:200]!r}"


broken("a column that is missing", "texts", label_column=f"{COLUMN}x")
broken("cells that are no numbers", "texts", {"classes": None, "scores": ["pearson"]}, label_column=COLUMN)
broken("a file that is missing", "texts", name=f"/nowhere/{FOLDER}/{CELL}.csv")
broken("images that are missing", "digits", rows=lambda text: text)
broken("a table that is no text", "texts", rows=lambda text: text + b"\xff\xfe" + CELL.encode())
broken("rows of another length", "texts", rows=lambda text: text + f"{CELL}\n".encode())
broken("a table that is empty", "texts", rows=lambda text: text.splitlines()[0] + b"\n")
broken("notes of the site that are damaged", "texts", spoils="privacy.json")
broken("a greeting of before that is damaged", "texts", spoils="run.json")


def exhausting(title: str, *settings: Mapping[str, Mapping[str, Any]]) -> None:
    """An attack on memory: the site's program, bounded to 8 GB, must come back with a code or an answer."""

    @attack(EXHAUSTION, title)
    def bounded(world: World) -> str:
        target, config = world.site(), world.config("digits")
        codes = world.root / "codes"

        def work() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (8 * GIB, 8 * GIB))
            for changed in settings:
                if not target.greet(world.sent(config, **changed)).code:
                    target.check()
            codes.write_text(json.dumps([[one.content.decode("latin-1"), one.code] for one in target.came]))

        ended = child(work, world.root / "output", within=60)
        if ended.status:
            return f"the site's program ended with {ended.status}"
        target.came += [Came(content.encode("latin-1"), code) for content, code in json.loads(codes.read_text())]
        return ""


exhausting("ranks of a million and more", *({"adapter": {"rank": 10**power}} for power in (5, 6, 9, 18, 30)))
exhausting("blocks up to a billion", {"adapter": {"blocks": "0-999999999"}}, {"adapter": {"blocks": "9" * 5000}})
exhausting("numbers at which training overflows", {"training": {"lr": 1e308}}, {"adapter": {"alpha": 1e308}})
exhausting("an order of classes that is a million long", {"stream": {"order": [0] * 10**6}})
