"""How good written answers are: right or wrong by what they end in, and the scores of generation.

    text     the same words as one of the right answers
    final    the same final number or formula: in \\boxed{}, after "####" or "answer is", or the last number
    option   the same option named first: true or false, answer1, solution2, ending3, option2

Scores are taken of all answers at once. BLEU (sacrebleu), ROUGE-L (rouge-score) and METEOR (nltk) are fractions of
one; NIST (nltk) and CIDEr (pycocoevalcap) have their own scales. METEOR matches words, stems and synonyms; synonyms
need WordNet, and `meteor_stem` does without.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from fedbraid.errors import UserError

References = Sequence[Sequence[str]]
"""The right answers to each prompt."""

PACKAGES: Mapping[str, str] = {
    "bleu": "sacrebleu",
    "nist": "nltk",
    "meteor": "nltk",
    "meteor_stem": "nltk",
    "rouge_l": "rouge_score",
    "cider": "pycocoevalcap",
}
"""What each score is computed by."""

_OPTION = re.compile(r"\b(true|false|(?:answer|solution|ending|option) ?[1-5])\b")
_NUMBER = re.compile(r"(?:(?<![\d.])-)?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)")
_FRACTION = re.compile(r"-?\d+(?:\.\d+|/\d+)?|-?\.\d+")
_WITH_UNIT = re.compile(r"(-?[\d,]*\.?\d+)(?: [A-Za-z ]+)?")


def is_right(written: str, answers: Sequence[str], match: str) -> bool:
    """Whether a written answer is one of the right ones, compared by `match`.

    >>> is_right("He pays 5 + 7 = 12. The answer is: 12", ["so 12\\n#### 12"], "final")
    True
    >>> is_right("the correct answer is answer3", ["answer3"], "option"), is_right("A pub.", ["a  pub"], "text")
    (True, True)
    """
    read = {"text": _words, "final": final_answer, "option": first_option}[match]
    return read(written) in {read(answer) for answer in answers} - {""}


def final_answer(text: str) -> str:
    """The number or formula that a solution ends in, in one spelling; empty where there is none.

    >>> final_answer(r"so $x = \\boxed{\\dfrac{3}{4}}$."), final_answer("#### 1,200"), final_answer("0.75 of it")
    ('3/4', '1200', '3/4')
    """
    boxed = _boxed(text)
    if boxed is not None:
        return _formula(boxed)
    for mark in ("####", "answer is"):
        _, found, rest = text.rpartition(mark)
        if found:
            return _formula(re.split(r"\n|\.\s", rest.lstrip(": \n"))[0])
    numbers = _NUMBER.findall(text)
    return _formula(numbers[-1]) if numbers else ""


def first_option(text: str) -> str:
    """The option that is named first; empty where none is.

    >>> first_option("The correct answer is Answer 2, not answer1.")
    'answer2'
    """
    found = _OPTION.search(text.casefold())
    return found.group(1).replace(" ", "") if found else ""


def measure(names: Sequence[str], written: Sequence[str], answers: References) -> dict[str, float]:
    """Those of the scores that are computed here, by name.

    >>> measure(["rouge_l"], ["a pub"], [["a pub", "a bar"]])
    {'rouge_l': 1.0}
    """
    return {name: MEASURES[name](written, answers) for name in names if name in MEASURES}


def computable(names: Sequence[str]) -> tuple[str, ...]:
    """The scores as they can be computed here: `meteor_stem` in the place of `meteor` where there is no WordNet.

    `UserError` where a package is missing.
    """
    for name in names:
        if name in PACKAGES:
            _package(name)
    return tuple("meteor_stem" if name == "meteor" and not _has_wordnet() else name for name in names)


def _package(name: str, module: str = "") -> Any:
    """A module of the package that computes the score."""
    package = PACKAGES[name]
    try:
        return importlib.import_module(f"{package}.{module}" if module else package)
    except ImportError as error:
        raise UserError(
            f"score {name!r} needs an extra that is not installed: pip install 'fedbraid[text]', or name other scores "
            f"with data.scores ({error})"
        ) from error


def _has_wordnet() -> bool:
    find = _package("meteor", "data").find
    for place in ("corpora/wordnet", "corpora/wordnet.zip"):
        try:
            find(place)
        except LookupError:
            continue
        return True
    return False


def _words(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".!?")


def _boxed(text: str) -> str | None:
    """What the last \\boxed{...} holds, braces inside it included."""
    _, found, rest = text.rpartition("\\boxed{")
    if not found:
        return None
    depth = 1
    for place, letter in enumerate(rest):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return rest[:place]
    return rest


def _formula(text: str) -> str:
    """One spelling of a number or a formula: without units, spaces and signs that say nothing; numbers as fractions."""
    text = text.strip().strip("$").rstrip(".").strip()
    text = re.sub(r"\\text\{ .*", "", text)
    text = re.sub(r"\\(?:text|mbox|mathrm)\{([^}]*)\}", r"\1", text)
    text = text.replace("{,}", ",")
    text = re.sub(r"\\left|\\right|\\[!,;$]|\\?%|\^\{?\\circ\}?|\$", "", text)
    with_unit = _WITH_UNIT.fullmatch(text.strip())
    text = re.sub(r"\s", "", with_unit.group(1) if with_unit else text)
    text = re.sub(r"^[A-Za-z]=", "", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    return _number(re.sub(r"^(-?)\\frac\{(-?\d+)\}\{(\d+)\}$", r"\1\2/\3", text))


def _number(text: str) -> str:
    """A number as a fraction in lowest terms; what is no number, or one of too many digits, as it stands."""
    try:
        return str(Fraction(text)) if _FRACTION.fullmatch(text) else text
    except (ValueError, ZeroDivisionError):
        return text


def _tokens(text: str) -> list[str]:
    """Words and punctuation, in lower case."""
    return re.findall(r"\w+|[^\w\s]", text.casefold())


def _bleu(written: Sequence[str], answers: References) -> float:
    """Corpus BLEU with sacrebleu's own tokens, case kept."""
    most = max(map(len, answers))
    columns = [[right[place] if place < len(right) else None for right in answers] for place in range(most)]
    return _package("bleu").corpus_bleu(list(written), columns).score / 100


def _nist(written: Sequence[str], answers: References) -> float:
    """Corpus NIST of up to five words; orders for which nothing long enough was written count zero."""
    hypotheses = [_tokens(text) for text in written]
    order = min(5, max(map(len, hypotheses)))
    if order == 0:
        return 0.0
    references = [[_tokens(text) for text in right] for right in answers]
    return float(_package("nist", "translate.nist_score").corpus_nist(references, hypotheses, order))


def _meteor(written: Sequence[str], answers: References, *, synonyms: bool = True) -> float:
    """The mean over answers of the best METEOR over their references."""
    score = _package("meteor", "translate.meteor_score").meteor_score
    options = {} if synonyms else {"wordnet": _NoSynonyms()}
    pairs = zip(written, answers, strict=True)
    found = [score([_tokens(r) for r in right], _tokens(text), **options) if text else 0.0 for text, right in pairs]
    return sum(found) / len(found)


def _meteor_stem(written: Sequence[str], answers: References) -> float:
    return _meteor(written, answers, synonyms=False)


class _NoSynonyms:
    """In the place of WordNet: no word has another."""

    def synsets(self, word: str) -> list[Any]:  # noqa: ARG002 (as nltk calls it)
        return []


def _rouge_l(written: Sequence[str], answers: References) -> float:
    """The mean over answers of the best F of the longest common subsequence over their references."""
    scorer = _package("rouge_l", "rouge_scorer").RougeScorer(["rougeL"])
    pairs = zip(written, answers, strict=True)
    found = [scorer.score_multi(list(right), text)["rougeL"].fmeasure for text, right in pairs]
    return sum(found) / len(found)


def _cider(written: Sequence[str], answers: References) -> float:
    """CIDEr-D; how rare a phrase is follows from the references of all samples, so a single sample has none."""
    told = {place: [" ".join(re.findall(r"\w+", text.casefold()))] for place, text in enumerate(written)}
    right = {place: [" ".join(re.findall(r"\w+", r.casefold())) for r in rs] for place, rs in enumerate(answers)}
    score, _ = _package("cider", "cider.cider").Cider().compute_score(right, told)
    return float(score)


MEASURES: Mapping[str, Callable[[Sequence[str], References], float]] = {
    "bleu": _bleu,
    "nist": _nist,
    "meteor": _meteor,
    "meteor_stem": _meteor_stem,
    "rouge_l": _rouge_l,
    "cider": _cider,
}
