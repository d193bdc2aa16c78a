"""Attacks by question: rounds and tensors that are none, evaluations, messages on few samples."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from dishonest_sites import (
    FEWEST,
    RARE,
    Came,
    Target,
    World,
    attack,
    question,
    spelled,
)

from fedbraid.algebra import Tensors
from fedbraid.core import EVALUATE, Task
from fedbraid.privacy.report import what_leaves
from fedbraid.runtimes.codec import Codec, Message
from fedbraid.runtimes.delivery import digest_of, digest_of_all
from fedbraid.runtimes.exchange import UPDATE
from fedbraid.wire import entries

QUESTIONS, EVALUATIONS, FEW = "questions", "evaluations", "few samples"


def update(came: Came) -> Tensors:
    """The tensors of an update; nothing of any other reply."""
    return came.message.tensors if not came.code and came.message.text.get("is") == UPDATE else {}


def asked(world: World, target: Target, *settings: str, method: str = "fedit", task: int = 0, **round: Any) -> Came:
    """What comes of the first round of an honest run with these settings, or of another round of it."""
    config = world.config("digits", *settings, method=method)
    target.greet(world.sent(config))
    experiment, state, first = world.begun(config)
    shared = dict(state.shared)
    if f"head/{first.task.index}" in shared:  # later tasks have heads of their own
        classes = len(experiment.tasks[task].classes)
        shared[f"head/{task}"] = torch.zeros(classes, shared[f"head/{first.task.index}"].shape[1])
    there = replace(first, task=experiment.tasks[task])
    return target.answer(spelled(question(shared, replace(there, **round))))


# Questions.


@attack(QUESTIONS, "a question to a site that was greeted by nobody")
def not_greeted(world: World) -> str:
    target = world.site()
    _, state, round = world.begun(world.config("digits"))
    return "an update" if update(target.answer(spelled(question(state.shared, round)))) else ""


TASKS = (Task(0, (1, 2)), Task(0, (0, 1)), Task(1, (0, 3, 4)), Task(0, (0, 4)), Task(0, (-4, 2)), Task(0, (0, 10**9)))


@attack(QUESTIONS, "tasks that the run does not have, to choose the classes of an update")
def other_tasks(world: World) -> str:
    target, state, round = world.greeted(world.config("digits"))
    found = [t for t in TASKS if update(target.answer(spelled(question(state.shared, replace(round, task=t)))))]
    return f"updates of {found}" if found else ""


def named(phase: str, offsets: str = "[0, 2]", index: str = "0", task: str = "0") -> str:
    """A round as text."""
    return f'{{"task": {{"index": {task}, "offsets": {offsets}}}, "phase": {phase}, "index": {index}, "seed": 0}}'


ODD_ROUNDS = (
    *map(named, ('"x"', '""', '"../x"', '["train"]', "null")),
    *(named('"train"', offsets) for offsets in ("[0, 2.0]", '"02"', "[]", "[2, 0]", "[0, true]", "[0, NaN]")),
    *(named('"train"', index=index) for index in ("1.0", "true", "1e308", "NaN", '"0"', "9" * 5000)),
    *(named('"train"', task=task) for task in ("-1", "2", "0.0", "null")),
    *("", "null", "[]", "{}", "[" * 10**5, '{"task": 1}'),
)


@attack(QUESTIONS, "texts that name no round, or no phase of the method")
def no_round(world: World) -> str:
    target, state, round = world.greeted(world.config("digits"))
    whole = question(state.shared, round)
    return "an update" if any(update(target.answer(spelled(whole, round=text))) for text in ODD_ROUNDS) else ""


@attack(QUESTIONS, "rounds far beyond the last and before the first, seeds beyond every number")
def far_rounds(world: World) -> str:
    target = world.site()
    for round in ({"index": 10**30}, {"index": -5}, {"seed": 10**40}, {"seed": -1}):
        asked(world, target, **round)
    return ""


@attack(QUESTIONS, "the same question again, in the same process and in another")
def replayed(world: World) -> str:
    target, state, round = world.greeted(world.config("digits"))
    whole = spelled(question(state.shared, round))
    first, second, third = target.answer(whole), target.answer(whole), target.restarted().answer(whole)
    return "" if update(first) and first == second == third else "another answer to the same question"


def carrying(message: Message, tensors: Tensors) -> bytes:
    """The same question with these tensors, as if they had always been its own."""
    all = digest_of_all({name: digest_of(tensor) for name, tensor in tensors.items()})
    return Codec().encode(tensors, {**message.text, "same": "[]", "gone": "[]", "first": "yes", "all": all})


def odd_tensors(shared: Tensors) -> Iterator[Tensors]:
    """Shared tensors as no honest server sends them."""
    name = next(iter(shared))
    for number in (float("nan"), float("inf"), 1e30, -1e30, 0.0):
        yield {key: torch.full_like(value, number) for key, value in shared.items()}
    for value in (torch.zeros(0), torch.zeros(1), torch.zeros(3, 3, 3), torch.zeros(10**6), torch.zeros(())):
        yield {**shared, name: value}
    for kind in (torch.int64, torch.bool, torch.complex64, torch.float16, torch.uint8):
        yield {key: value.to(kind) for key, value in shared.items()}
    yield {}
    yield {key: value for key, value in shared.items() if key != name}
    layer = name.partition("/")[2]
    for extra in ("head/-1", "head/9", "head/x", "../../x", "keep/x", "private/key", "", "client/x", "lora_B"):
        yield {**shared, extra: torch.zeros(2, 97)}
    for extra in ("delta_B/x", f"delta_A/{layer}", f"delta_B/{layer}", f"dense/{layer}"):
        yield {**shared, extra: torch.zeros(2, 97)}


@attack(QUESTIONS, "tensors that are not finite, not of their shape, not of their kind, missing, of other names")
def false_tensors(world: World) -> str:
    target, state, round = world.greeted(world.config("digits"))
    honest = question(state.shared, round)
    for number, tensors in enumerate(odd_tensors(state.shared)):
        target.answer(carrying(replace(honest, text={**honest.text, "to": str(number)}), tensors))
    return ""


@attack(QUESTIONS, "texts beside the tensors that are missing, nested without end, or of another kind")
def false_texts(world: World) -> str:
    target, state, round = world.greeted(world.config("digits"))
    whole = question(state.shared, round)
    for key in (*whole.text, "step", "session", "terms", "parts", "lists"):
        for text in ("", "[" * 10**5, "null", "3", '[["a", "b"]]', '[["a"]]', "../../../x", "\0", "x" * 10**6):
            target.answer(spelled(whole, **{key: text}))
        target.answer(Codec().encode(whole.tensors, {name: text for name, text in whole.text.items() if name != key}))
    return ""


@attack(QUESTIONS, "a question cut at every place, with flipped bits, of random bytes, with headers that lie")
def damaged(world: World) -> str:
    target, state, round = world.greeted(world.config("digits"))
    whole, draws = spelled(question(state.shared, round)), random.Random(0)
    sent = [whole[: draws.randrange(len(whole))] for _ in range(60)]
    for _ in range(60):
        place = draws.randrange(400)
        sent.append(whole[:place] + bytes([whole[place] ^ 1 << draws.randrange(8)]) + whole[place + 1 :])
    sent += [draws.randbytes(draws.randrange(200)) for _ in range(60)]
    header = b'{"x":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4611686018427387904]}}'
    sent += [(2**63 - 1).to_bytes(8, "little") + whole[8:], len(header).to_bytes(8, "little") + header, b"\x80\x04."]
    nested = b'{"__metadata__":' + b'{"a":' * 10**5
    sent += [len(nested).to_bytes(8, "little") + nested]
    for payload in sent:
        target.answer(payload)
    return ""


# Evaluations.


@attack(EVALUATIONS, "a run that counts at the sites, at a site that does not count")
def counted(world: World) -> str:
    target = world.site()
    return "" if target.greet(world.sent(world.config("digits"), tested=True)).code else "the site took the greeting"


@attack(EVALUATIONS, "a question of the phase evaluate in a run that does not count at the sites")
def unasked(world: World) -> str:
    came = asked(world, world.site(least_samples=1), phase=EVALUATE)
    return "counts of right answers" if update(came) else ""


@attack(EVALUATIONS, "test samples class by class, at a site that counts on twenty or more")
def class_by_class(world: World) -> str:
    config = world.config("digits", "stream.sizes=[1,1]", "data.classes=['0','1']")
    target = world.site(evaluate="allow")
    target.greet(world.sent(config, tested=True))
    experiment, state, round = world.begun(config)
    found = [
        update(target.answer(spelled(question(state.shared, replace(round, task=task, phase=EVALUATE)))))
        for task in experiment.tasks
    ]
    return "counts on six samples" if any(found) else ""


@attack(EVALUATIONS, "twenty times the same model, under other rounds and runs, at a site that counts")
def again_and_again(world: World) -> str:
    target, config = world.site(evaluate="allow", least_samples=1), world.config("digits")
    _, state, round = world.begun(config)
    told: set[str] = set()
    for number in range(20):
        name = f"run {number // 10}"
        if not number % 10:
            target.greet(world.sent(config, name=name, tested=True))
        there = replace(round, phase=EVALUATE, index=number)
        found = update(target.answer(spelled(question(state.shared, there, run=name))))
        told.add(digest_of_all({key: digest_of(value) for key, value in found.items()}))
    return "" if len(told) == 1 else f"{len(told)} different counts of one model"


# Messages on few samples.


@attack(FEW, "two samples in batches of one")
def two_samples(world: World) -> str:
    came = asked(world, world.site(), "data.train_samples=2", "training.batch_size=1", "data.train_per_class=1")
    return "an update on two samples" if update(came) else ""


@attack(FEW, "a task of one class, of which the site has one sample")
def rare_task(world: World) -> str:
    came = asked(world, world.site(), f"data.classes=['0','{RARE}']", "stream.sizes=[1,1]", task=1)
    return "an update on one sample" if update(came) else ""


ONE_TASK = "stream.sizes=[4]"


@attack(FEW, "every number of samples below the least, one after another")
def every_number(world: World) -> str:
    target = world.site()
    few = [n for n in (1, 5, 10, 19) if update(asked(world, target, f"data.train_samples={n}", ONE_TASK))]
    return f"updates on {few} samples" if few else ""


def sums_by_class(method: str, *settings: str) -> None:
    """An attack by a method that sends sums by class, where one class has one sample."""

    @attack(FEW, f"sums by class of {method}, of a class of which the site has one sample")
    def summed(world: World) -> str:
        target = world.site(methods=(method,), small_grams="allow")
        found = asked(
            world, target, f"data.classes=['0','1','2','3','{RARE}']", "stream.sizes=[5]", *settings, method=method
        )
        return f"sums by class: {sorted(update(found))}" if update(found) else ""


sums_by_class("fedproto")
sums_by_class("afl", "adapter.kind=none")
sums_by_class("ranpac_fed", "adapter.kind=none", "method.features=8")


GRAMS: Mapping[str, tuple[str, ...]] = {
    "afl": ("adapter.kind=none",),
    "ranpac_fed": ("adapter.kind=none", "method.features=300"),
    "lorm": ("adapter.kind=lora",),
    "regmean": ("adapter.kind=lora",),
}


def grams(title: str, method: str, sizes: str, *settings: str, seeds: int = 1) -> None:
    """An attack that asks for Grams, which must rest on as many samples as they are wide."""

    @attack(FEW, title)
    def measured(world: World) -> str:
        short: list[Any] = []
        for seed in range(seeds):
            given = (*GRAMS[method], sizes, *settings, f"run.seed={seed}")
            found = asked(world, world.site(methods=(method,)), *given, method=method)
            experiment, _, round = world.begun(world.config("digits", *given, method=method))
            sent = entries(update(found), experiment.work.gives(round))
            behind = 30 * len(round.task.classes)
            short += [gram for gram in what_leaves(sent, samples=behind).grams if gram.samples < gram.needed]
        return f"Grams on too few samples: {short}" if short else ""


TWO_TASKS = "stream.sizes=[2,2]"
grams("the Gram of 60 samples in 97 dimensions", "afl", TWO_TASKS)
grams("a Gram of one sample, held out from the rest of 120", "afl", ONE_TASK, "method.held_out=0.01", seeds=4)
grams("Grams of random features, wider than there are samples", "ranpac_fed", ONE_TASK)
grams("Grams beside trained values", "lorm", TWO_TASKS)
grams("Grams beside trained values, by another method", "regmean", TWO_TASKS)


@attack(FEW, "what the site would refuse of a run, asked to count its samples")
def preflight(world: World) -> str:
    target = world.site(methods=("afl",))
    target.greet(world.sent(world.config("digits", "adapter.kind=none", method="afl")))
    told = json.loads(target.check().content)["refused"]
    asked = {"task", "phase", "what", "needed"}
    return "" if all(row.keys() == asked and row["needed"] in (FEWEST, 97) for row in told) else f"{told}"
