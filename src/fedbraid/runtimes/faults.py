"""Why a site gives no answer, as it may leave the site: a code, and a number that the run's own settings ask for.

The sentence of an error may hold what is its owner's alone, a value, a path, a name of a column. It stays in the site's
log; the server gets the code and makes a sentence of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

CODES: Mapping[str, str] = {
    "not allowed": "its site.toml does not allow what the run asks for",
    "too few samples": "a message would rest on too few samples",
    "budget spent": "its privacy budget does not suffice for the round",
    "not declared": "the method sends something that it does not declare",
    "not private": "the method sends something that noise does not cover",
    "masked": "it does not take part in this masked sum",
    "settings": "its own data, model or settings do not fit the run",
    "failed": "it could not compute an answer",
    "unforeseen": "something went wrong there that nobody foresaw",
}
"""What the server says of each."""
SETTLED = "settled"
"""The code of a pause that no waiting ends: all who are missing have said why, and will say it again."""
REFUSALS = frozenset({"not allowed", "too few samples", "not declared", "not private"})
"""The codes of what a site could do and will not."""
_LASTING = frozenset(CODES) - {"failed", "masked"}


def lasts(error: BaseException | None) -> bool:
    """Whether asking again would come to the same."""
    return getattr(error, "code", "") in _LASTING


def sentence(code: str, needed: int | None = None) -> str:
    """What a server says of a site's code.

    >>> sentence("too few samples", 33)
    'a message would rest on too few samples (at least 33 are needed); the sentence is in the log of the site'
    """
    least = "" if needed is None else f" (at least {needed:,} are needed)"
    return f"{CODES.get(code, 'it gives a code that is not known')}{least}; the sentence is in the log of the site"


def code_of(error: BaseException) -> tuple[str, int | None]:
    """(code, number) of an error; of one that nobody foresaw nothing more than that."""
    code = getattr(error, "code", "unforeseen")
    return (code, getattr(error, "needed", None)) if code in CODES else ("unforeseen", None)
