"""Right or wrong, and the scores of generation, against what a hand computes."""

import importlib

import pytest

from fedbraid.data.prompts import OF_ANSWERS
from fedbraid.errors import UserError
from fedbraid.evaluation import SCORES
from fedbraid.local import text_scores
from fedbraid.local.text_scores import MEASURES, computable, final_answer, first_option, is_right, measure

CAT = [["the cat sat on a mat"]]


@pytest.mark.parametrize(
    ("name", "written", "answers", "expected"),
    [
        # 5/6 words, 3/5 pairs, 2/4 triples, 1/3 quadruples, no brevity penalty.
        ("bleu", ["the cat sat on the mat"], CAT, (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25),
        ("bleu", ["a b c d", "e f g h"], [["x", "a b c d"], ["e f g h"]], 1.0),
        # Each of two words tells log2 2 = 1; after the first the second tells nothing; orders above are not there.
        ("nist", ["a b"], [["a b"]], 1.0),
        ("nist", [""], [["a b"]], 0.0),
        # All three match, one by its stem, in one chunk: 1 - 0.5 (1/3)^3.
        ("meteor_stem", ["the cat sat"], [["a dog", "the cats sat"]], 1 - 0.5 / 27),
        ("meteor_stem", ["", "the cat sat"], [["a"], ["the cat sat"]], (1 - 0.5 / 27) / 2),
        # The longest common subsequence is two of three words; the better reference counts.
        ("rouge_l", ["the cat sat"], [["a", "the cat ran"]], 2 / 3),
        # Both as their references say, in phrases that the other sample does not have: 10 of 10.
        ("cider", ["the cat sat on mats", "my dog ran by us"], [["The cat sat on mats."], ["My dog ran by us!"]], 10.0),
        ("cider", ["no such words at all", "none"], [["the cat sat on mats"], ["my dog ran by us"]], 0.0),
    ],
)
def test_a_score_is_what_a_hand_computes(name, written, answers, expected):
    assert measure([name], written, answers)[name] == pytest.approx(expected, abs=1e-6)


def test_every_score_has_a_heading_and_a_place_where_it_is_computed():
    assert set(OF_ANSWERS) <= set(SCORES)
    assert set(MEASURES) == set(text_scores.PACKAGES)
    assert set(OF_ANSWERS) - set(MEASURES) == {"accuracy", "loss", "perplexity"}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She has 3 + 4 = 7 and then 12.", "12"),
        ("16 - 3 = <<16-3=13>>13\n#### 1,234", "1234"),
        ("so 5\n#### 72\nThe answer is: 72", "72"),
        ("The answer is: 72 dollars.", "72"),
        ("The answer is $10.50", "21/2"),
        (r"Hence \boxed{\frac{1}{2}}, not \boxed{0.5}", "1/2"),
        (r"\boxed{\text{(B)}}", "(B)"),
        (r"\boxed{x = 5\text{ cm}}", "5"),
        (r"\boxed{\left( 3, \frac{\pi}{2} \right)}", r"(3,\frac{\pi}{2})"),
        (r"\boxed{\dfrac12}", "1/2"),
        (r"\boxed{-\frac{7}{3}}", "-7/3"),
        (r"\boxed{10\%}", "10"),
        (r"\boxed{90^\circ}", "90"),
        ("The answer is: 5x + 3", "5x+3"),
        ("no number at all", ""),
        ("He has 12, in total.", "12"),
        ("20-5=15 are left of 10-12", "12"),
        ("The answer is:\n12", "12"),
        ("The answer is: 12. I hope that it helps", "12"),
        (r"\boxed{1{,}000}", "1000"),
        ("The answer is 1e99999999", "1e99999999"),  # as a fraction it would fill the memory
    ],
)
def test_final_answers(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("the correct answer is answer3", "answer3"),
        ("True, since true is not false", "true"),
        ("Solution 1 it is", "solution1"),
        ("ending4\nending1", "ending4"),
        ("option 7, or truely", ""),
    ],
)
def test_the_option_named_first(text, option):
    assert first_option(text) == option


def test_right_is_what_one_of_the_answers_says():
    assert is_right("a  Pub.", ["no", "A pub"], "text")
    assert not is_right("a pub by the river", ["a pub"], "text")
    assert is_right("0.5", [r"so \boxed{\frac{1}{2}}"], "final")
    assert not is_right("nothing", ["nothing at all"], "final")
    assert not is_right("", ["no option here"], "option")


def test_without_wordnet_meteor_has_no_synonyms_and_another_name(monkeypatch):
    monkeypatch.setattr(text_scores, "_has_wordnet", lambda: False)
    assert computable(("bleu", "meteor", "loss")) == ("bleu", "meteor_stem", "loss")
    monkeypatch.setattr(text_scores, "_has_wordnet", lambda: True)
    assert computable(("meteor",)) == ("meteor",)


def test_wordnet_is_looked_for():
    assert text_scores._has_wordnet() in (True, False)


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_a_missing_package_is_named_with_its_extra(monkeypatch, name):
    def absent(module):
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(UserError, match=rf"score '{name}' needs an extra.*pip install 'fedbraid\[text\]'"):
        computable((name,))
