"""Names that people gave (of clients, sites, classes, files): as names of files, and as words on a terminal.

A name can be in any script and as long as 200 letters. A file system takes 255 bytes, and a letter can be four of them;
a terminal obeys some letters. So a name becomes part of a path through `file_name`, and is shown through `printable`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from urllib.parse import quote

from fedbraid.errors import UserError

LONGEST = 200
"""The most letters of a client's id and of a site's name."""
SHORT = 64
"""The longest name of a file that is the name itself."""
_BEGINNING = 31
_JOINERS = "\u200c\u200d"
"""Without width, and a part of words in Persian and in the scripts of India."""


def file_name(name: str) -> str:
    """A name for a file or a folder, another for every name: the name itself, or its beginning and a hash of all of it.

    It is in ASCII and at most 64 letters long. No quoted name has a `=`, so none is another's hash.

    >>> file_name("north-2"), file_name("ward 3/b")
    ('north-2', 'ward%203%2Fb')
    >>> file_name("\\u5317" * 200)
    '=753dce9496eeef7f2402a2f7ce4052c6'
    """
    quoted = quote(name, safe="", errors="surrogatepass")
    if len(quoted) <= SHORT and name not in ("", ".", ".."):
        return quoted
    beginning = "".join(re.findall(r"[A-Za-z0-9_-]", name))[:_BEGINNING]
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{beginning}={digest[:32]}"


def shortened(name: str, most: int = 2 * SHORT) -> str:
    """The name of a file as it is, where it takes so few bytes; otherwise as `file_name` gives it."""
    return name if len(name.encode("utf-8", "surrogatepass")) <= most else file_name(name)


def check_name(name: str, what: str, advice: str) -> str:
    """The name, where it can be that of `what`; `UserError` with the `advice` where it cannot."""
    fault = _fault(name)
    if fault:
        raise UserError(f"{what} {printable(repr(name), 60)} {fault}; {advice}")
    return name


def printable(text: object, most: int | None = None) -> str:
    """The text in one line of at most so many letters; what could steer a terminal is shown as its escape.

    >>> printable("a\\x1b[2Jb\\u202ec\\n\\ud800"), printable("x" * 9, most=4), printable("\\u5317 \\U0001f600")
    ('a\\\\x1b[2Jb\\\\u202ec\\\\n\\\\ud800', 'xxx…', '\u5317 \U0001f600')
    """
    whole = str(text)
    shown = "".join(map(_shown, whole if most is None else whole[: most + 1]))
    return shown if most is None or len(shown) <= most else f"{shown[: most - 1]}…"


def printable_lines(text: object) -> str:
    """The text with its lines and tabs, all else as `printable` gives it.

    >>> printable_lines("first\\nsecond\\x07")
    'first\\nsecond\\\\x07'
    """
    return "".join(sign if sign in "\n\t" else _shown(sign) for sign in str(text))


def _shown(sign: str) -> str:
    return sign if sign.isprintable() or sign in _JOINERS else repr(sign)[1:-1]


def _fault(name: str) -> str:
    if name in ("", ".", ".."):
        return "is no name"
    if len(name) > LONGEST:
        return f"has {len(name)} letters, more than {LONGEST}"
    kinds = {unicodedata.category(sign) for sign in name}
    if "Cs" in kinds:
        return "holds bytes that are no text in UTF-8"
    if kinds & {"Cc", "Zl", "Zp"}:
        return "holds control characters"
    return ""
