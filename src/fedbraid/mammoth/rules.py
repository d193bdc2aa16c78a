"""What becomes of a flag: rules from its text to settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Settings = Mapping[str, Any]
"""Values by `section.key`."""

Rule = Callable[[str, Mapping[str, str]], Settings]
"""From the text of a flag and those of all flags to settings; `ValueError` says why a value is refused."""

TRUTH = {word: str(word[0] in "ty1") for word in ("true", "t", "yes", "y", "1", "false", "f", "no", "n", "0")}


@dataclass(frozen=True)
class Flag:
    """A flag, its default in fed-mammoth (None where it must be given), and what its value becomes."""

    name: str
    default: str | None
    rule: Rule
    note: str = ""


def whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise ValueError("it takes a whole number") from None


def number(text: str) -> float:
    """Any number."""
    try:
        return float(text)
    except ValueError:
        raise ValueError("it takes a number") from None


def inverse(text: str) -> float:
    """One over a number."""
    if not number(text):
        raise ValueError("it takes a number other than 0")
    return 1 / number(text)


def scaled(factor: float) -> Callable[[str], float]:
    """How to read a number in another unit."""
    return lambda text: factor * number(text)


def nothing(_text: str, _texts: Mapping[str, str]) -> Settings:
    """No setting: the flag has no effect."""
    return {}


def always(settings: Settings) -> Rule:
    """These settings, whatever the text."""
    return lambda _text, _texts: settings


def to(key: str, read: Callable[[str], Any]) -> Rule:
    """One setting."""
    return lambda text, _texts: {key: read(text)}


def unless_negative(*keys: str) -> Rule:
    """A number for all of these settings; they keep their defaults where it is negative."""
    return lambda text, _texts: dict.fromkeys(keys, number(text)) if number(text) >= 0 else {}


def one_of(meanings: Mapping[str, Settings]) -> Rule:
    """The settings of a word."""

    def rule(text: str, _texts: Mapping[str, str]) -> Settings:
        if text not in meanings:
            raise ValueError(f"it takes {' or '.join(meanings)}")
        return meanings[text]

    return rule


def must_be(*words: str, otherwise: str) -> Rule:
    """Nothing to set for these words, and no other: `otherwise` says why."""

    def rule(text: str, _texts: Mapping[str, str]) -> Settings:
        if text not in words and TRUTH.get(text.lower()) not in words:
            raise ValueError(f"{otherwise}; it takes {' or '.join(words) or 'no value'}")
        return {}

    return rule


def refused(name: str, otherwise: str) -> Flag:
    """A switch that must be off."""
    return Flag(name, "False", must_be("False", otherwise=otherwise))


def unused(name: str, default: str) -> Flag:
    """A flag that is without effect in fed-mammoth."""
    return Flag(name, default, nothing, "without effect there as well")


def where(flag: str, word: str, rule: Rule) -> Rule:
    """A rule that counts where another flag has that word."""
    return lambda text, texts: rule(text, texts) if texts[flag] == word else {}


def cohort(text: str, texts: Mapping[str, str]) -> Settings:
    """How many clients take part, from their share."""
    clients = whole(texts["num_clients"])
    drawn = int(clients * number(text))
    if not 1 <= drawn <= clients:
        raise ValueError("it takes a share of at least one client and at most all")
    return {"partition.clients_per_round": drawn} if drawn < clients else {}


def reservoir(text: str, texts: Mapping[str, str]) -> Settings:
    """How many samples are kept; as many of them are drawn as there are in a batch."""
    return {"method.buffer": whole(text), "method.batch": whole(texts["batch_size"])}


def gram(text: str, texts: Mapping[str, str]) -> Settings:
    """The form of LoRM's Grams, from what off-diagonals are multiplied by; a negative number stands for the head's."""
    share = number(text) if number(text) >= 0 else number(texts["alpha_regmean_head"])
    return {"method.gram": "full", "method.gram_off_diagonal": share} if share else {"method.gram": "diagonal"}


def as_head(text: str, texts: Mapping[str, str]) -> Settings:
    """Nothing to set, since it must be what the head has."""
    if number(text) >= 0 and number(text) != number(texts["alpha_regmean_head"]):
        raise ValueError("all Grams have one factor here; give --alpha_regmean_head the same value")
    return {}
