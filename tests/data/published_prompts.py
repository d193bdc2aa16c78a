"""Tiny data sets of prompts in the exact layouts that their authors publish."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from published import Layout

MEANINGS = ("name[Blue Spice], food[French]", "name[Zizzi], area[riverside]", "name[Cocum], eatType[pub]")


def put(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def lines(file: Path, rows: Iterable[Mapping[str, str]]) -> None:
    put(file, "".join(json.dumps(row) + "\n" for row in rows))


def e2e(root: Path) -> None:
    said = ("Blue Spice is French.", "By the river there is Zizzi.", 'Cocum is a "pub", mate.')
    quoted = [text.replace('"', '""') for text in said]
    rows = [f'"{meaning}","{text}"\n' for meaning, text in zip(MEANINGS, quoted, strict=True)]
    put(root / "trainset.csv", "mr,ref\n" + "".join(rows * 4))
    put(root / "devset.csv", "mr,ref\n" + "".join(rows))
    again = f'"{MEANINGS[0]}","French food is at Blue Spice."\n'
    put(root / "testset_w_refs.csv", '"mr","ref"\n' + rows[0] + again + rows[2])


def gsm8k(root: Path) -> None:
    rows = [
        {"question": f"Ann has {n} clips and buys 2. How many are there?", "answer": f"{n}+2\n#### {n + 2}"}
        for n in range(6)
    ]
    lines(root / "train.jsonl", rows * 2)
    lines(root / "test.jsonl", rows[:3])


def math(root: Path) -> None:
    for part, count in (("train", 3), ("test", 2)):
        for subject, name in (("algebra", "Algebra"), ("number_theory", "Number Theory")):
            for number in range(9, 9 + count):
                solution = f"It is $\\boxed{{\\frac{{{number}}}{{2}}}}$."
                row = {"problem": f"Halve {number}.", "level": "Level 1", "type": name, "solution": solution}
                put(root / "MATH" / part / subject / f"{number}.json", json.dumps(row))


def metamath(root: Path) -> None:
    kinds = ("GSM_Rephrased", "MATH_AnsAug", "GSM_SV")
    rows = [
        {
            "query": f"What is {n} + 1?",
            "response": f"It is {n + 1}. The answer is: {n + 1}",
            "type": kinds[n % 3],
            "original_question": f"{n} + 1",
        }
        for n in range(12)
    ]
    put(root / "MetaMathQA-395K.json", json.dumps(rows))
    gsm8k(root / "gsm8k")
    math(root)


ASKED = {
    "boolq": ("Please answer the following question with true or false, question: is it?", "true/false", "true"),
    "piqa": ("Please choose the correct solution to the question: how?", "solution1/solution2", "solution2"),
    "social_i_qa": (
        "Please choose the correct answer to the question: who?",
        "answer1/answer2/answer3",
        "answer1",
    ),
    "hellaswag": (
        "Please choose the correct ending to complete the given sentence: so",
        "ending1/ending2/ending3/ending4",
        "ending3",
    ),
    "winogrande": ("Please choose the correct answer to fill in the blank: _", "option1/option2", "option1"),
    "ARC-Easy": ("Please choose the correct answer: a", "answer1/answer2/answer3/answer4", "answer4"),
    "ARC-Challenge": ("Please choose the correct answer: b", "answer1/answer2/answer3/answer4", "answer2"),
    "openbookqa": ("Please choose the correct answer: c", "answer1/answer2/answer3/answer4", "answer3"),
}


def instruction(name: str) -> dict[str, str]:
    question, form, answer = ASKED[name]
    text = f"{question}\n\nAnswer format: {form}"
    return {"instruction": text, "input": "", "output": f"the correct answer is {answer}", "answer": answer}


def commonsense(root: Path) -> None:
    put(root / "commonsense_170k.json", json.dumps([instruction(name) for name in ASKED] * 3))
    for name in ASKED:
        put(root / name / "test.json", json.dumps([instruction(name)] * 2))


PROMPT_LAYOUTS = tuple(
    Layout(name, write, top, (), parts, modality="language")
    for name, write, top, parts in (
        ("e2e", e2e, "", ("testset_w_refs.csv",)),
        ("gsm8k", gsm8k, "", ("train.jsonl", "test.jsonl")),
        ("math", math, "MATH", ("train", "test")),
        ("metamathqa", metamath, "", ("MetaMathQA-395K.json",)),
        ("commonsense170k", commonsense, "", ("commonsense_170k.json",)),
    )
)
