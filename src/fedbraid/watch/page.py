"""The page of a run that is watched: one document that needs nothing else, and the policy that it is served with.

It looks as the reports do, whose style sheet it begins with. Its script asks for `status.json` of the same server.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Page:
    """The document, and its policy: its own style and script by their hashes, its own server, nothing else."""

    content: bytes
    policy: str


def page() -> Page:
    """The page; it is the same for every run.

    >>> found = page()
    >>> found.content[:15], "unsafe" in found.policy
    (b'<!doctype html>', False)
    """
    style = _asset("fedbraid.reports", "style.css") + _asset("fedbraid.watch", "page.css")
    parts = "".join(_asset("fedbraid.watch", name) for name in ("words.js", "chart.js", "page.js"))
    script, body = f'(() => {{\n"use strict";\n{parts}}})();\n', _asset("fedbraid.watch", "page.html")
    document = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>fedbraid watch</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n{body}<script>{script}</script>\n</body>\n</html>\n"
    )
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Page(document.encode(), policy)


def _asset(package: str, name: str) -> str:
    return files(package).joinpath(name).read_text("utf-8")


def _hash(inline: str) -> str:
    """What a browser computes of the text of an inline element."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"
