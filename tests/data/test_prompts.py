"""Prompts with answers: their layouts, their tables, their wordings, and the rows of tokens they become."""

import json
from dataclasses import replace

import pytest
import torch
from published_prompts import ASKED, MEANINGS, commonsense, e2e, gsm8k, instruction, lines, math, metamath, put

from fedbraid.core import IGNORED, PromptInput, TextInput
from fedbraid.data import DATASETS, load, make_clients, make_partition, make_stream
from fedbraid.data.prompts import encoded, tokenized
from fedbraid.errors import UserError
from fedbraid.testing.language import prompts

CPU = torch.device("cpu")


def letters(length=12, start=None):
    """A model that reads letters by their code, ends with 0 and pads with 0."""

    def encode(prompts, answers, chat):
        mark = [1] if start else []
        first = "U:" if chat else ""
        return [
            (mark + [ord(c) for c in first + p], [ord(c) for c in a] + [0])
            for p, a in zip(prompts, answers, strict=True)
        ]

    return PromptInput(encode, length, 0, start)


def text(tokens):
    return "".join(chr(t) for t in tokens if t > 1)


def test_e2e_is_tested_by_meaning_with_all_references(tmp_path):
    e2e(tmp_path)
    data = load("e2e", path=tmp_path)
    assert (data.modality, data.class_names, len(data.train)) == ("language", ("all",), 12)
    assert data.test.texts == (MEANINGS[0], MEANINGS[2])
    assert data.test.answers[0] == ("Blue Spice is French.", "French food is at Blue Spice.")
    assert data.train.answers[2] == ('Cocum is a "pub", mate.',)
    assert data.scores[0] == "bleu"


def test_e2e_without_a_training_file_trains_on_the_development_file_and_says_so(tmp_path):
    e2e(tmp_path)
    (tmp_path / "trainset.csv").unlink()
    data = load("e2e", path=tmp_path)
    assert len(data.train) == 3
    assert "devset.csv is trained on" in data.note


def test_gsm8k_and_math(tmp_path):
    gsm8k(tmp_path / "a")
    math(tmp_path / "b")
    words, formulas = load("gsm8k", path=tmp_path / "a"), load("math", path=tmp_path / "b")
    assert (words.class_names, len(words.train), len(words.test)) == (("gsm8k",), 12, 3)
    assert (formulas.class_names, len(formulas.test)) == (("Algebra", "Number Theory"), 4)
    assert [t[6:-1] for t in formulas.train.texts[:3]] == ["9", "10", "11"]  # by number, not by letter


def test_metamath_is_tested_on_what_lies_beside_it(tmp_path):
    metamath(tmp_path)
    data = load("metamathqa", path=tmp_path)
    assert data.class_names == ("gsm8k", "math")
    assert data.train.labels.tolist()[:3] == [0, 1, 0]
    assert data.test.labels.bincount().tolist() == [3, 4]
    (tmp_path / "gsm8k" / "test.jsonl").unlink()
    assert load("metamathqa", path=tmp_path).test.labels.bincount().tolist() == [0, 4]


def test_commonsense_has_its_tests_as_categories(tmp_path):
    commonsense(tmp_path)
    data = load("commonsense170k", path=tmp_path)
    assert set(data.class_names) == {*ASKED, "ARC and OpenBookQA"}
    assert data.train.labels.bincount(minlength=9)[data.class_names.index("ARC and OpenBookQA")] == 9
    assert data.test.labels.bincount()[data.class_names.index("piqa")] == 2
    assert data.note == ""


def test_commonsense_from_the_tests_own_training_files(tmp_path):
    for name in ("boolq", "ARC-Easy"):
        put(tmp_path / f"{name}.train.json", json.dumps([instruction(name)] * 3))
        put(tmp_path / f"{name}.test.json", json.dumps([instruction(name)]))
    data = load("commonsense170k", path=tmp_path)
    assert data.class_names == ("ARC-Easy", "boolq")
    assert "not tested on piqa" in data.note
    assert "there is no commonsense_170k.json" in data.note


def test_a_row_without_a_field_is_named(tmp_path):
    gsm8k(tmp_path)
    lines(tmp_path / "test.jsonl", [{"question": "a", "answer": "b"}, {"question": "c", "answer": " "}])
    with pytest.raises(UserError, match=r"test\.jsonl, row 2: there is no 'answer'"):
        load("gsm8k", path=tmp_path)
    lines(tmp_path / "test.jsonl", [{"question": "a", "answer": 5}])
    with pytest.raises(UserError, match=r"test\.jsonl, row 1: there is no 'answer' that is a text"):
        load("gsm8k", path=tmp_path)
    (tmp_path / "test.jsonl").write_text("")
    with pytest.raises(UserError, match="there are no test samples"):
        load("gsm8k", path=tmp_path)


def test_one_category_alone_may_be_kept(tmp_path):
    metamath(tmp_path)
    data = load("metamathqa", path=tmp_path, classes=["gsm8k"])
    assert data.class_names == ("gsm8k",)
    with pytest.raises(UserError, match="at least one"):
        load("metamathqa", path=tmp_path, classes=[])


def test_what_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / "own.jsonl").write_bytes(b'{"prompt": "\xff", "answer": "a"}\n' * 3)
    with pytest.raises(UserError, match=r"own\.jsonl cannot be read as json"):
        load(tmp_path / "own.jsonl", answer_column="answer")


@pytest.fixture
def hub(monkeypatch):
    """Puts rows in the place of the hub's, by repository, configuration and split."""
    import datasets

    def serve(tables):
        def load_dataset(name, config=None, split=()):
            return [tables[(name, config, one)] for one in split]

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    return serve


def test_the_hub_gives_the_same_as_the_authors_files(hub, tmp_path):
    e2e(tmp_path / "e2e")
    gsm8k(tmp_path / "gsm8k")
    local = {name: load(name, path=tmp_path / name) for name in ("e2e", "gsm8k")}
    said = {"mr": "meaning_representation", "ref": "human_reference"}
    tables = {}
    for part, table in (("train", local["e2e"].train), ("test", local["e2e"].test)):
        pairs = [(t, a) for t, answers in zip(table.texts, table.answers, strict=True) for a in answers]
        tables["tuetschek/e2e_nlg", None, part] = [{said["mr"]: t, said["ref"]: a} for t, a in pairs]
    for part, table in (("train", local["gsm8k"].train), ("test", local["gsm8k"].test)):
        pairs = zip(table.texts, table.answers, strict=True)
        tables["openai/gsm8k", "main", part] = [{"question": t, "answer": a[0]} for t, a in pairs]
    hub(tables)
    for name, found in local.items():
        assert load(name).fingerprint == found.fingerprint


def test_math_metamath_and_commonsense_from_the_hub(hub):
    from fedbraid.data.layouts.mathematics import SUBJECTS

    problem = {"problem": "a", "solution": r"\boxed{1}", "type": "Algebra"}
    tables = {("EleutherAI/hendrycks_math", s, part): [problem] for s in SUBJECTS for part in ("train", "test")}
    tables["openai/gsm8k", "main", "test"] = [{"question": "a", "answer": "#### 1"}]
    meta = [{"query": "a", "response": "The answer is: 1", "type": kind} for kind in ("GSM_SV", "MATH_SV")]
    tables["meta-math/MetaMathQA", None, "train"] = meta
    tables["zwhe99/commonsense_170k", None, "train"] = [instruction(name) for name in ASKED] * 5
    hub(tables)
    assert len(load("math").test) == 7
    assert load("metamathqa").test.labels.bincount().tolist() == [1, 7]
    held = load("commonsense170k")
    assert "the tests are not on the hub" in held.note
    assert "held out" in held.note


def test_a_table_of_ones_own(tmp_path):
    rows = [{"prompt": f"q{n}", "answer": ["a", "b"], "area": "xy"[n % 2], "client": "c"} for n in range(8)]
    lines(tmp_path / "own.jsonl", rows)
    data = load(tmp_path / "own.jsonl", answer_column="answer", category_column="area")
    assert (data.modality, data.class_names, data.scores) == ("language", ("x", "y"), ("accuracy",))
    assert data.train.answers[0] == ("a", "b")
    assert set(data.train.clients) == {"c"}
    one = load(tmp_path / "own.jsonl", prompt_column="area", answer_column="prompt")
    assert one.class_names == ("all",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answer_column": "reply"}, r"no column 'reply'.*data\.answer_column"),
        ({"answer_column": "answer", "category_column": "area"}, r"no column 'area'.*data\.category_column"),
        ({"answer_column": "empty"}, r"own\.jsonl, row 1: an answer is empty"),
        ({"prompt_column": "words", "answer_column": "answer"}, r"own\.jsonl, row 1: .* is a list and no text"),
        ({"answer_column": "said"}, r"own\.jsonl, row 1: .* is a dict and no text"),
        ({"answer_column": "answer", "scores": ["f1"]}, r"no score 'f1'.*rouge_l"),
        ({"answer_column": "answer", "scores": []}, r"name at least one score"),
    ],
)
def test_errors_of_a_table_name_the_setting(tmp_path, options, message):
    lines(tmp_path / "own.jsonl", [{"prompt": "q", "answer": "a", "empty": " ", "words": ["a"], "said": {"a": 1}}] * 3)
    with pytest.raises(UserError, match=message):
        load(tmp_path / "own.jsonl", **options)


def test_what_differs_in_an_answer_alone_has_another_fingerprint(tmp_path):
    prints = set()
    for answer in ("a", "b"):
        lines(tmp_path / f"{answer}.jsonl", [{"prompt": "q", "answer": answer}] * 5)
        prints.add(load(tmp_path / f"{answer}.jsonl", answer_column="answer").fingerprint)
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("template", "prompt", "answer"),
    [
        ("lines", "ask\n", "say"),
        ("bars", "ask ||", " say"),
        ("chat", "U:ask", "say"),
    ],
)
def test_wordings(template, prompt, answer):
    ((before, after),) = encoded(["ask"], ["say"], letters(), template=template)
    assert (text(before), text(after)) == (prompt, answer)


def test_the_wording_of_instructions_is_alpacas():
    ((before, _),) = encoded(["ask {answer}"], ["say"], letters(), template="alpaca")
    start, end = "Below is an instruction that describes a task.", "### Instruction:\nask {answer}\n\n### Response:\n"
    assert text(before).startswith(start)
    assert text(before).endswith(end)
    known = {name: s.template for name, s in DATASETS.items() if s.modality == "language"}
    assert known == {
        "e2e": "bars",
        "gsm8k": "alpaca",
        "math": "alpaca",
        "metamathqa": "alpaca",
        "commonsense170k": "alpaca",
    }


def test_an_unknown_wording_is_refused():
    with pytest.raises(UserError, match="no wording 'line' of prompts; known are lines, bars, alpaca, chat"):
        encoded(["ask"], ["say"], letters(), template="line")


def test_a_source_of_ones_own(tmp_path):
    (tmp_path / "own.py").write_text(
        "from fedbraid.data import Prompt, Rows, Source, Splits\n"
        "def read(path):\n"
        "    rows = Rows.of([(Prompt(str(n), (str(n + 1),)), 'sums') for n in range(6)], 'sums')\n"
        "    return Splits(rows)\n"
        "SUMS = Source('sums', 'language', 1, 1, read=read, template='bars', match='final')\n"
    )
    data = load(f"{tmp_path / 'own.py'}:SUMS", path=tmp_path)
    assert (data.modality, data.class_names, len(data.train), len(data.test)) == ("language", ("sums",), 5, 1)


def test_rows_hold_the_prompt_then_the_answer_of_which_alone_is_learned():
    rows = tokenized(["ab", "c"], [["x", "y"], ["zw"]], letters(), template="lines", where="toy")
    inputs = rows.inputs(torch.tensor([1, 0]), CPU, None)
    assert inputs["input_ids"].tolist() == [[99, 10, 122, 119, 0], [97, 98, 10, 120, 0]]
    assert inputs["attention_mask"].sum().item() == 10
    assert inputs["labels"].tolist() == [[IGNORED, IGNORED, 122, 119, 0], [IGNORED, IGNORED, IGNORED, 120, 0]]
    alone = rows.inputs(torch.tensor([0]), CPU, None)
    assert alone["input_ids"].tolist() == [[97, 98, 10, 120, 0]]
    assert rows.cut == 0


def test_padding_is_neither_seen_nor_learned():
    rows = tokenized(["abcd", "c"], [["x"], ["z"]], letters(), template="lines", where="toy")
    inputs = rows.inputs(torch.tensor([0, 1]), CPU, None)
    assert inputs["attention_mask"].tolist() == [[1] * 7, [1] * 4 + [0] * 3]
    assert inputs["labels"][1].tolist() == [IGNORED, IGNORED, 122, 0, IGNORED, IGNORED, IGNORED]


@pytest.mark.parametrize(("start", "kept"), [(None, "efgh\n"), (1, "fgh\n")])
def test_a_prompt_that_is_too_long_loses_its_beginning_but_for_the_token_that_opens_it(start, kept):
    rows = tokenized(["abcdefgh"], [["xy"]], letters(8, start), template="lines", where="toy")
    ids = rows.inputs(torch.tensor([0]), CPU, None)["input_ids"][0].tolist()
    assert (len(ids), ids[0] == 1, text(ids)) == (8, start == 1, kept + "xy")
    assert rows.cut == 1


def test_an_answer_that_is_too_long_is_refused():
    with pytest.raises(UserError, match=r"toy sample 2: its answer is 9 tokens.*backbone\.max_length = 8"):
        tokenized(["a", "a"], [["x"], ["xxxxxxxx"]], letters(8), template="lines", where="toy")


def test_clients_get_batches_with_the_answers_to_their_own_prompts():
    data = prompts()
    stream = make_stream(6, sizes=(2, 1, 3))
    partition = make_partition(data, stream, kind="iid", clients=2)
    clients, evaluators = make_clients(data, stream, partition, letters(200))
    batch = next(clients["1"].train(stream.tasks[1]).batches(3, device=CPU))
    assert batch.answers == (("big small",),) * 3
    told = [text([t for t in row if t > 0]) for row in batch.inputs["labels"].tolist()]
    assert told == ["big small"] * 3
    test = evaluators["test"].test(stream.tasks[0])
    assert next(test.batches(9, device=CPU)).answers[0] == ("cat dog", "the cat dog")


def test_prompts_are_for_a_language_model_alone():
    data = prompts()
    stream = make_stream(6, tasks=1)
    partition = make_partition(data, stream, kind="iid", clients=2)
    with pytest.raises(UserError, match=r"language data, but the backbone reads texts"):
        make_clients(data, stream, partition, TextInput(lambda texts: {}))
    plain = replace(data, modality="text", train=replace(data.train, answers=None))
    with pytest.raises(UserError, match="the backbone reads prompts with answers"):
        make_clients(plain, stream, partition, letters())
